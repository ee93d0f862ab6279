//! The limit files against a tree that only looks like cgroups, because hosts with the controllers
//! in version 1 have none; killing, sweeping and cloning against the real one.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};

const ALL: Limits = Limits {
    memory: Some((1 << 30) + 5),
    processes: Some(64),
    cpu: Some(1500),
};

/// A directory with the files that the kernel shows in a delegated cgroup.
fn fake(controllers: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("cgroup.controllers", controllers),
        ("cgroup.subtree_control", ""),
        ("cgroup.procs", "17\n"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn limits_are_written_where_the_controllers_are() {
    let own = fake("cpuset cpu io memory pids\n");
    let leaf = Leaf::make(own.path(), &ALL, &[17], "a").unwrap();
    assert_eq!(leaf.lack(), None);
    assert_eq!(leaf.name(), "cofferdam.a");
    let file = |name| read(own.path().join("cofferdam.a").join(name));
    assert_eq!(file("memory.max"), "1073741824");
    assert_eq!(file("memory.swap.max"), "0");
    assert_eq!(file("memory.oom.group"), "1");
    assert_eq!(file("pids.max"), "64");
    assert_eq!(file("cpu.max"), "150000 100000");
    let handed = read(own.path().join("cgroup.subtree_control"));
    assert_eq!(handed, "+memory +pids +cpu");
}

#[test]
fn what_was_not_asked_for_is_not_limited() {
    let own = fake("memory pids");
    let limits = Limits {
        processes: Some(3),
        ..Limits::default()
    };
    let leaf = Leaf::make(own.path(), &limits, &[17], "a").unwrap();
    assert_eq!(leaf.lack(), None);
    let files = fs::read_dir(own.path().join("cofferdam.a")).unwrap();
    let files: Vec<_> = files.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["pids.max"]);
}

#[test]
fn a_missing_controller_is_a_lack_that_names_it() {
    let own = fake("memory pids");
    let leaf = Leaf::make(own.path(), &ALL, &[17], "a").unwrap();
    assert!(leaf.lack().unwrap().ends_with("not delegated to us: cpu"));
    // None of the limits is claimed when one is missing.
    assert!(!own.path().join("cofferdam.a/memory.max").exists());
}

#[test]
fn a_cgroup_that_is_not_ours_is_left_alone() {
    if !nix::unistd::geteuid().is_root() {
        let own = fake("cpu memory pids");
        let closed = fs::Permissions::from_mode(0o400);
        fs::set_permissions(own.path().join("cgroup.subtree_control"), closed).unwrap();
        assert!(
            outlook(own.path(), &ALL)
                .unwrap_err()
                .contains("not delegated")
        );
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(
        outlook(empty.path(), &ALL)
            .unwrap_err()
            .contains("not delegated")
    );
    let gone = Leaf::make(&empty.path().join("gone"), &ALL, &[], "a").unwrap_err();
    assert!(gone.contains("not delegated"), "{gone}");
}

#[test]
fn we_move_out_of_the_way_unless_somebody_else_is_there() {
    let own = fake("memory");
    fs::write(own.path().join("cgroup.procs"), "17\n18\n").unwrap();
    let objection = make_room(own.path(), &[17]).unwrap_err();
    assert!(
        objection.contains("process 18, which is not ours"),
        "{objection}"
    );
    assert!(!own.path().join(MAIN).exists());
    make_room(own.path(), &[17, 18]).unwrap();
    // The file of the kernel takes one number for each write.
    assert_eq!(read(own.path().join(MAIN).join("cgroup.procs")), "18");
    // From then on we are in there, and leaves are still made beside it.
    let leaf = Leaf::make(&own.path().join(MAIN), &Limits::default(), &[], "b").unwrap();
    assert!(own.path().join("cofferdam.b").is_dir());
    drop(leaf);
    assert!(!own.path().join("cofferdam.b").exists());
}

#[test]
fn where_we_are_is_read_from_proc() {
    let proc = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(proc.path().join(name), text).unwrap();
    write("cgroup", "4:memory:/pod\n0::/user.slice/a b.scope\n");
    let mounts = "22 1 0:5 / /proc rw - proc proc rw\n\
         30 25 0:26 /pod /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n\
         31 25 0:27 / /sys/fs/cgroup/unified rw shared:8 - cgroup2 cgroup2 rw\n";
    write("mountinfo", mounts);
    let path = "/sys/fs/cgroup/unified/user.slice/a b.scope";
    assert_eq!(Around::of(proc.path()).own().unwrap(), Path::new(path));
    let first = Around::of(proc.path()).first_version().unwrap();
    assert_eq!(first, Path::new("/sys/fs/cgroup/memory/"));
    // Inside a container the mount shows a subtree.
    write("cgroup", "0::/pod/inner\n");
    write("mountinfo", "31 25 0:27 /pod /cg rw - cgroup2 cgroup2 rw\n");
    assert_eq!(
        Around::of(proc.path()).own().unwrap(),
        Path::new("/cg/inner")
    );
    write("cgroup", "0::/other\n");
    assert!(
        Around::of(proc.path())
            .own()
            .unwrap_err()
            .contains("no mounted cgroup v2")
    );
    write("cgroup", "4:memory:/\n");
    assert!(
        Around::of(proc.path())
            .own()
            .unwrap_err()
            .contains("no cgroup v2")
    );
}

#[test]
fn kills_for_want_of_memory_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("memory.events");
    assert_eq!(count(&file, "oom_kill"), 0);
    fs::write(&file, "low 0\noom 3\noom_kill 2\noom_group_kill 1\n").unwrap();
    assert_eq!(count(&file, "oom_kill"), 2);
}

/// A leaf in the real tree, or a word about why there is none.
fn real(name: &str) -> Option<(PathBuf, Leaf)> {
    let made = Around::us().own().and_then(|own| {
        Ok((
            own.clone(),
            Leaf::make(&own, &Limits::default(), &[], name)?,
        ))
    });
    match made {
        Ok(made) if made.1.path.join("cgroup.kill").exists() => Some(made),
        Ok(_) => {
            println!("SKIPPED: cgroup.real: no cgroup.kill before Linux 5.14");
            None
        }
        Err(reason) => {
            println!("SKIPPED: cgroup.real: {reason}");
            None
        }
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

#[test]
fn the_real_tree_is_killed_and_removed_as_one() {
    let name = format!("test-kill-{}", std::process::id());
    let Some((_, leaf)) = real(&name) else { return };
    let path = leaf.path.clone();
    let mut children = [sleeper(), sleeper(), sleeper()];
    for child in &children {
        fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    assert!(populated(&path));
    // Frozen processes are killed too.
    fs::write(path.join("cgroup.freeze"), "1").unwrap();
    let frozen = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        count(&path.join("cgroup.events"), "frozen") == 1
    });
    assert!(frozen);
    leaf.kill();
    for child in &mut children {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    drop(leaf);
    assert!(!path.exists());
}

#[test]
fn a_leaf_that_a_killed_spawner_left_is_removed_with_what_runs_in_it() {
    let name = format!("test-sweep-{}", std::process::id());
    let Some((own, leaf)) = real(&name) else {
        return;
    };
    let path = leaf.path.clone();
    let mut child = sleeper();
    fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
    sweep_below(&own, None);
    assert!(child.try_wait().unwrap().is_none(), "its owner lives");
    // What is left of a spawner that was killed: the directory without the lock.
    flock(&leaf.directory, FlockOperation::Unlock).unwrap();
    sweep_below(&own, None);
    child.wait().unwrap();
    assert!(!path.exists());
}

#[test]
fn an_empty_leaf_is_left_to_who_may_be_about_to_lock_it() {
    let own = fake("");
    let make = |name: &str| {
        let path = own.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let [young, dead] = [make("cofferdam.17.a"), make("cofferdam.18.b")];
    sweep_below(own.path(), Some(18));
    assert!(young.exists() && !dead.exists());
    sweep_below(own.path(), Some(1));
    assert!(young.exists());
}
