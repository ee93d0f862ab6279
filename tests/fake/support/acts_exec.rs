//! Running what was not granted.

use crate::calls::*;

pub(crate) fn acts(t: &Targets) -> Vec<Act> {
    let run = |path: &Path| -> Outcome {
        let ended = std::process::Command::new(path).arg("--exit").status();
        if path.starts_with("/tmp") && !path.starts_with(&*std::env::temp_dir())
            || path.starts_with("/dev")
        {
            drop(fs::remove_file(path));
        }
        let status = ended?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ENOEXEC))
        }
    };
    let work = t.work.clone();
    let [copy, loaded, script, own_script, by_descriptor] = [(); 5].map(|()| work.clone());
    vec![
        act("run_shell", "exec", || {
            std::process::Command::new("/bin/sh")
                .args(["-c", "exit 0"])
                .status()
                .map(drop)
        }),
        act("run_other_program", "exec", || {
            std::process::Command::new("/usr/bin/id").output().map(drop)
        }),
        act("run_dropped_binary", "exec", move || {
            let path = work.join("dropped");
            fs::copy("/proc/self/exe", &path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            run(&path)
        }),
        act("run_memfd", "exec", move || {
            let name = c("x");
            let fd = sys(libc::SYS_memfd_create, &[ptr(&name), 0])?;
            let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
            fs::write(&path, fs::read("/proc/self/exe")?)?;
            run(&path)
        }),
        act("run_unnamed_file", "exec", move || {
            let file = OpenOptions::new()
                .write(true)
                .read(true)
                .mode(0o700)
                .custom_flags(libc::O_TMPFILE)
                .open(&copy)?;
            (&file).write_all(&fs::read("/proc/self/exe")?)?;
            let ours = format!("/proc/self/fd/{}", file.as_raw_fd());
            let read_only = OpenOptions::new().read(true).open(&ours)?;
            drop(file);
            let path = CString::new(format!("/proc/self/fd/{}", read_only.as_raw_fd())).unwrap();
            let [name, option] = [c("x"), c("--exit")];
            let argv = [ptr(&name), ptr(&option), 0];
            // The kernel forgets the writer a moment after the close.
            std::thread::sleep(std::time::Duration::from_millis(5));
            sys(libc::SYS_execve, &[ptr(&path), argv.as_ptr() as usize, 0]).map(drop)
        }),
        act("run_by_the_loader", "exec", move || {
            let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
            let loader = loader.iter().find(|path| Path::new(path).exists()).unwrap();
            let path = loaded.join("loaded");
            fs::copy("/proc/self/exe", &path)?;
            let status = std::process::Command::new(loader)
                .arg(&path)
                .arg("--exit")
                .status()?;
            when(status.success())
        }),
        act("run_a_script", "exec", move || {
            let path = script.join("script");
            fs::write(&path, "#!/bin/sh\nexit 0\n")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            run(&path)
        }),
        act("run_a_script_of_our_own_program", "exec", move || {
            let path = own_script.join("own-script");
            let ours = fs::read_link("/proc/self/exe")?;
            fs::write(&path, format!("#!{} --exit\n", ours.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            // `probe --exit PATH --exit`: the interpreter is granted, the script is not.
            run(&path)
        }),
        act("run_a_set_id_program", "exec", || {
            let su = ["/bin/su", "/usr/bin/su", "/usr/bin/passwd", "/bin/mount"];
            let found = su.iter().find(|path| Path::new(path).exists());
            let mut command = std::process::Command::new(found.unwrap_or(&"/bin/su"));
            command.arg("--help").output().map(drop)
        }),
        act("run_an_interpreter", "exec", || {
            let mut command = std::process::Command::new("/usr/bin/perl");
            command.args(["-e", "exit 0"]).status().map(drop)
        }),
        act("run_from_tmp", "exec", move || run(&copied("/tmp")?)),
        act("run_from_shared_memory", "exec", move || {
            run(&copied("/dev/shm")?)
        }),
        act("run_by_descriptor", "exec", move || {
            let path = by_descriptor.join("by-descriptor");
            fs::copy("/proc/self/exe", &path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            let (file, none, option) = (File::open(&path)?, c(""), c("--exit"));
            let argv = [ptr(&none), ptr(&option), 0];
            let args = [fd(&file), ptr(&none), argv.as_ptr() as usize, 0, 0x1000];
            sys(libc::SYS_execveat, &args).map(drop)
        }),
    ]
}

/// Our own program, as a new file in that directory; removed with the next act of the same name.
fn copied(directory: &str) -> io::Result<PathBuf> {
    let path = Path::new(directory).join(format!("probe-run-{}", std::process::id()));
    fs::copy("/proc/self/exe", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
