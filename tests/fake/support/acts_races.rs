//! Links, renames, descriptors of directories, and races between a check and a use.

use crate::calls::*;

const EXCHANGE: usize = 2;
/// Turns of a race; each is a few system calls.
const TURNS: usize = 2000;

fn exchange(a: &Path, b: &Path) -> Outcome {
    let (a, b) = (c(a), c(b));
    let args = [at(), ptr(&a), at(), ptr(&b), EXCHANGE];
    sys(libc::SYS_renameat2, &args).map(drop)
}

/// Swaps `one` and `two` in a child for as long as `run` tries.
fn while_swapping(one: &Path, two: &Path, run: impl Fn() -> Outcome) -> Outcome {
    let (a, b) = (one.to_owned(), two.to_owned());
    // It is ended below, long before.
    let child = fork(move || (0..100 * TURNS).for_each(|_| drop(exchange(&a, &b))))?;
    let mut done = refused();
    for _ in 0..TURNS {
        done = run();
        if done.is_ok() {
            break;
        }
    }
    drop(sys(libc::SYS_kill, &[child, 9]));
    drop(sys(libc::SYS_wait4, &[child, 0, 0, 0]));
    done
}

/// A fresh directory of the act's own where the cell may write.
fn own(work: &Path, name: &str) -> io::Result<PathBuf> {
    let path = work.join(name);
    drop(fs::remove_dir_all(&path));
    fs::create_dir(&path)?;
    Ok(path)
}

fn path_only(path: &Path) -> io::Result<File> {
    let flags = libc::O_PATH;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Tells what the path, taken from a directory descriptor, holds.
fn tell_at(directory: usize, path: &str) -> Outcome {
    let path = c(path);
    let file = sys(libc::SYS_openat, &[directory, ptr(&path), 0])?;
    tell_file(format!("/proc/self/fd/{file}")).or_else(|_| {
        let mut found = [0u8; 512];
        let length = sys(libc::SYS_read, &[file, found.as_mut_ptr() as usize, 512])?;
        tell(&found[..length])
    })
}

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let mut acts = reading(t);
    acts.extend(writing(t));
    acts
}

fn reading(t: &Targets) -> Vec<Act> {
    let read = |name: &'static str, run: fn(&Targets, &str) -> Outcome| {
        let t = t.clone();
        seen(name, "race", move || run(&t, name))
    };
    vec![
        read("swap_a_file_for_a_link", |t, name| {
            let own = own(&t.work, name)?;
            let (file, link) = (own.join("file"), own.join("link"));
            fs::write(&file, "decoy")?;
            symlink(t.outside.join("secret"), &link)?;
            while_swapping(&file, &link, || match fs::read(&file)?.as_slice() {
                b"decoy" => refused(),
                other => tell(other),
            })
        }),
        read("swap_a_directory_for_a_link", |t, name| {
            let own = own(&t.work, name)?;
            let (real, link) = (own.join("real"), own.join("link"));
            fs::create_dir(&real)?;
            fs::write(real.join("secret"), "decoy")?;
            symlink(&t.outside, &link)?;
            while_swapping(&real, &link, || {
                match fs::read(real.join("secret"))?.as_slice() {
                    b"decoy" => refused(),
                    other => tell(other),
                }
            })
        }),
        read("climb_by_dots", |t, _| {
            let up = "../".repeat(t.work.components().count());
            let secret = t.outside.join("secret");
            let path = t.work.join(up).join(secret.strip_prefix("/").unwrap());
            tell_file(path)
        }),
        read("openat2_from_a_descriptor", |t, _| {
            let work = path_only(&t.work)?;
            let up = "../".repeat(t.work.components().count());
            let path = c(format!("{up}{}/secret", t.outside.display()));
            let how = [0u64; 3];
            let args = [fd(&work), ptr(&path), how.as_ptr() as usize, 24];
            let file = sys(libc::SYS_openat2, &args)?;
            let mut found = [0u8; 512];
            let length = sys(libc::SYS_read, &[file, found.as_mut_ptr() as usize, 512])?;
            tell(&found[..length])
        }),
        read("open_below_a_path_descriptor", |t, _| {
            tell_at(fd(&path_only(&t.outside)?), "secret")
        }),
        read("change_directory_and_open", |t, _| {
            std::env::set_current_dir(&t.outside)?;
            tell_file("secret")
        }),
        read("through_proc_self_cwd", |t, _| {
            std::env::set_current_dir(&t.outside)?;
            tell_file("/proc/self/cwd/secret")
        }),
        read("through_a_path_descriptor_in_proc", |t, _| {
            let directory = path_only(&t.outside)?;
            tell_file(format!("/proc/self/fd/{}/secret", fd(&directory)))
        }),
        read("link_a_path_descriptor", |t, name| {
            let file = path_only(&t.outside.join("secret"))?;
            let (from, to) = (
                c(format!("/proc/self/fd/{}", fd(&file))),
                own(&t.work, name)?.join("linked"),
            );
            let to_c = c(&to);
            sys(
                libc::SYS_linkat,
                &[at(), ptr(&from), at(), ptr(&to_c), 0x400],
            )?;
            tell_file(to)
        }),
        read("link_an_empty_path", |t, name| {
            let file = path_only(&t.outside.join("secret"))?;
            let (from, to) = (c(""), own(&t.work, name)?.join("linked"));
            let to_c = c(&to);
            let args = [fd(&file), ptr(&from), at(), ptr(&to_c), 0x1000];
            sys(libc::SYS_linkat, &args)?;
            tell_file(to)
        }),
        read("move_away_and_climb", |t, name| {
            let inner = own(&t.work, name)?.join("inner");
            fs::create_dir(&inner)?;
            let held = path_only(&inner)?;
            fs::rename(&inner, t.place(name).join("moved"))?;
            tell_at(fd(&held), "../../secret")
        }),
        read("read_by_handle", |t, _| {
            let mount = File::open(&t.work)?;
            let path = c(t.outside.join("secret"));
            // struct file_handle: its room, the kind, the handle.
            let mut handle = [0u32; 34];
            handle[0] = 128;
            let (mut id, place) = (0i32, handle.as_mut_ptr() as usize);
            let args = [at(), ptr(&path), place, &raw mut id as usize, 0];
            sys(libc::SYS_name_to_handle_at, &args)?;
            let file = sys(libc::SYS_open_by_handle_at, &[fd(&mount), place, 0])?;
            let mut found = [0u8; 512];
            let length = sys(libc::SYS_read, &[file, found.as_mut_ptr() as usize, 512])?;
            tell(&found[..length])
        }),
        read("map_a_file", |t, _| {
            let file = File::open(t.outside.join("secret"))?;
            let length = usize::try_from(file.metadata()?.len()).unwrap();
            let place = sys(libc::SYS_mmap, &[0, length, 1, 2, fd(&file), 0])?;
            // SAFETY: the mapping has `length` bytes and stays.
            tell(unsafe { std::slice::from_raw_parts(place as *const u8, length) })
        }),
    ]
}

fn writing(t: &Targets) -> Vec<Act> {
    let write = |name: &'static str, run: fn(&Targets, &Path, &str) -> Outcome| {
        let t = t.clone();
        seen(name, "race", move || run(&t, &t.place(name), name))
    };
    vec![
        write("exchange_with_ours", |t, place, name| {
            let ours = own(&t.work, name)?.join("ours");
            fs::write(&ours, "changed")?;
            exchange(&ours, &place.join("file"))
        }),
        write("link_out", |t, place, name| {
            let ours = own(&t.work, name)?.join("ours");
            fs::write(&ours, "changed")?;
            fs::hard_link(&ours, place.join("new"))
        }),
        write("unnamed_file_given_a_name_outside", |t, place, _| {
            let file = OpenOptions::new()
                .write(true)
                .mode(0o600)
                .custom_flags(libc::O_TMPFILE)
                .open(&t.work)?;
            let (from, to) = (
                c(format!("/proc/self/fd/{}", fd(&file))),
                c(place.join("new")),
            );
            sys(libc::SYS_linkat, &[at(), ptr(&from), at(), ptr(&to), 0x400]).map(drop)
        }),
        write("unnamed_file_outside", |_, place, _| {
            let file = OpenOptions::new()
                .write(true)
                .mode(0o600)
                .custom_flags(libc::O_TMPFILE)
                .open(place)?;
            let (from, to) = (
                c(format!("/proc/self/fd/{}", fd(&file))),
                c(place.join("new")),
            );
            sys(libc::SYS_linkat, &[at(), ptr(&from), at(), ptr(&to), 0x400]).map(drop)
        }),
        write("node_of_a_plain_file", |_, place, _| {
            let path = c(place.join("new"));
            sys(libc::SYS_mknodat, &[at(), ptr(&path), 0o100_600, 0]).map(drop)
        }),
        write("append_through_a_link", |t, place, name| {
            let link = own(&t.work, name)?.join("link");
            symlink(place.join("file"), &link)?;
            OpenOptions::new()
                .append(true)
                .open(link)?
                .write_all(b"changed")
        }),
        write("create_through_a_dangling_link", |t, place, name| {
            let link = own(&t.work, name)?.join("link");
            symlink(place.join("new"), &link)?;
            fs::write(link, "changed")
        }),
        write("write_through_a_swapped_directory", |t, place, name| {
            let own = own(&t.work, name)?;
            let (real, link) = (own.join("real"), own.join("link"));
            fs::create_dir(&real)?;
            symlink(place, &link)?;
            while_swapping(&real, &link, || {
                drop(fs::write(real.join("new"), "changed"));
                when(place.join("new").exists())
            })
        }),
        write("remove_by_a_descriptor", |_, place, _| {
            let (directory, name) = (path_only(place)?, c("file"));
            sys(libc::SYS_unlinkat, &[fd(&directory), ptr(&name), 0]).map(drop)
        }),
        write("rename_by_descriptors", |t, place, _| {
            let (from, to, name) = (path_only(place)?, path_only(&t.work)?, c("file"));
            let args = [fd(&from), ptr(&name), fd(&to), ptr(&name)];
            sys(libc::SYS_renameat, &args).map(drop)
        }),
        write("reopen_for_writing", |_, place, _| {
            let file = path_only(&place.join("file"))?;
            fs::write(format!("/proc/self/fd/{}", fd(&file)), "changed")
        }),
        write("attribute", |_, place, _| {
            let (path, name) = (c(place.join("file")), c("user.probe"));
            let args = [ptr(&path), ptr(&name), ptr(&name), 4, 0];
            sys(libc::SYS_setxattr, &args).map(drop)
        }),
        write("truncate_it", |_, place, _| {
            let path = c(place.join("file"));
            sys(libc::SYS_truncate, &[ptr(&path), 1]).map(drop)
        }),
        write("remove_a_directory", |_, place, _| {
            fs::remove_dir(place.join("dir"))
        }),
        write("replace_a_directory", |t, place, name| {
            fs::rename(own(&t.work, name)?, place.join("dir"))?;
            fs::write(place.join("dir/new"), "changed")
        }),
    ]
}
