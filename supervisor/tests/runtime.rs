//! The runtime's child for real: a busybox root in new namespaces, looked at from inside and from outside.
//!
//! Needs root, util-linux (`unshare`) and Debian's `busybox-static`.

#[cfg(test)]
#[path = "runtime/harness.rs"]
mod harness;

use std::os::fd::{AsFd, AsRawFd};

use harness::Container;
use supervisor::runtime::launch::{LaunchError, Mount, MountOptions, MountSource, Rlimit, Step, User};
use supervisor::runtime::{capabilities, overlay};

fn mount(target: &str, source: MountSource, options: MountOptions) -> Mount {
    Mount { target: target.to_owned(), source, options }
}

fn user(name: &str) -> User {
    User { name: name.to_owned(), group: None, supplementary: vec![], merge_image_groups: true, non_root: false }
}

/// Not a test: the process that becomes a container, started by [`Container::run_program`].
#[test]
#[ignore = "started by the other tests"]
fn helper() {
    harness::become_container();
}

/// Not a test: the process that becomes an exec, started by [`Container::exec`].
#[test]
#[ignore = "started by another test"]
fn exec_helper() {
    harness::become_exec();
}

/// P21, P39: an exec is confined like the container.
#[test]
fn an_exec_runs_inside_the_container() {
    let mut process = harness::process(&["/bin/sh", "-c", &format!("{STATUS}; ps; pwd; ls /proc/self/fd; exit 3")]);
    process.user = user("web");
    process.cwd = "/srv".to_owned();
    process.oom_score_adj = Some(500);
    let ran = Container::new().exec(process);
    assert_eq!((ran.code, &ran.error), (Some(3), &None), "{ran:?}");
    let set = format!("CapBnd:\t{:016x}", capabilities::default_set());
    for line in ["Uid:\t101\t101\t101\t101", &set, "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "/srv"]
    {
        assert!(ran.out.lines().any(|found| found == line), "{line:?} not in {ran:?}");
    }
    assert!(ran.out.contains("/bin/sleep 1000"), "another PID namespace: {ran:?}");
    assert!(ran.out.ends_with("/srv\n0\n1\n2\n3\n"), "{ran:?}");
}

/// P03, D14
#[test]
fn an_exec_has_the_checks_of_a_container() {
    let mut terminal = harness::process(&["/bin/tty"]);
    terminal.terminal = true;
    let ran = Container::new().exec(terminal);
    assert_eq!(ran.out, "/dev/pts/0\r\n", "{ran:?}");
    let mut elsewhere = harness::process(&["/bin/pwd"]);
    elsewhere.cwd = "/proc/self/fd/1".to_owned();
    assert_eq!(Container::new().exec(elsewhere).error.unwrap().step, Step::WorkingDirectory);
    let missing = Container::new().exec(harness::process(&["nonesuch"])).error.unwrap();
    assert_eq!(missing.to_string(), r#"exec: "nonesuch": executable file not found in $PATH"#);
}

#[test]
fn a_program_runs_in_its_root() {
    let ran = Container::new().sh("echo out; echo err >&2; pwd; id; echo $PATH $HOME $HOSTNAME; exit 7");
    assert_eq!(ran.code, Some(7), "{ran:?}");
    assert_eq!(ran.err, "err\n");
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines[..3], ["out", "/", "uid=0(root) gid=0(root) groups=0(root)"], "{ran:?}");
    assert!(ran.out.ends_with("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /root pod\n"), "{ran:?}");
}

#[test]
fn the_mounts_are_those_of_a_container() {
    let ran = Container::new().sh("cat /proc/self/mountinfo | cut -d' ' -f5-");
    let has = |start: &str, words: &[&str]| {
        let line = ran.out.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no mount {start:?}: {}", ran.out));
        assert!(words.iter().all(|word| line.contains(word)), "{line:?} lacks one of {words:?}");
    };
    has("/ rw", &["overlay", "volatile"]);
    has("/proc rw,nosuid,nodev,noexec", &["- proc"]);
    has("/sys ro,nosuid,nodev,noexec", &["- sysfs"]);
    has("/sys/fs/cgroup ro", &["- cgroup2"]);
    has("/dev rw,nosuid,noexec", &["- tmpfs"]);
    has("/dev/pts rw,nosuid,noexec", &["- devpts", "gid=5", "mode=620", "ptmxmode=666"]);
    has("/dev/mqueue rw,nosuid,nodev,noexec", &["- mqueue"]);
    has("/dev/shm rw,nosuid,nodev,noexec", &["- tmpfs", "size=65536k"]);
    has("/proc/sys ro", &["- proc"]);
    has("/sys/firmware ro", &["- tmpfs"]);
    let roots = ran.out.lines().filter(|line| line.starts_with("/ ")).count();
    assert_eq!(roots, 1, "the old root is left: {}", ran.out);
}

#[test]
fn nothing_appears_on_the_host() {
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    Container::new().sh("true");
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

/// PV4, D5
#[test]
fn masked_paths_are_empty_and_read_only_ones_cannot_be_written() {
    let ran = Container::new().sh(
        "cat /proc/interrupts /proc/keys /proc/timer_list | wc -c; ls -A /sys/firmware | wc -l; touch /sys/firmware/x; \
         echo 1 > /proc/sys/kernel/panic; touch /sys/x; mkdir /sys/fs/cgroup/x; echo done",
    );
    assert_eq!(ran.out, "0\n0\ndone\n", "{ran:?}");
    assert_eq!(ran.err.matches("Read-only file system").count(), 4, "{ran:?}");
}

/// PV9
#[test]
fn the_devices_are_there_and_no_others() {
    let ran = Container::new().sh(
        "ls /dev | tr '\\n' ' '; echo; stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom \
         /dev/tty; readlink /dev/ptmx; readlink /dev/fd; readlink /dev/core; \
         echo x > /dev/null && head -c 3 /dev/zero | wc -c",
    );
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n\
        /dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n\
        /dev/tty 5:0 666\npts/ptmx\n/proc/self/fd\n/proc/kcore\n3\n";
    assert_eq!(ran.out, expected, "{ran:?}");
}

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|Umask|Sig(Blk|Ign))' /proc/self/status";

/// P21, CP3
#[test]
fn credentials_are_exactly_the_plan() {
    let pattern = "^(Cap|NoNewPrivs|Seccomp:|Groups|Uid)";
    let ran = Container::new().run_program(&["/bin/grep", "-E", pattern, "/proc/self/status"]);
    let set = format!("{:016x}", capabilities::default_set());
    let expected = format!(
        "Uid:\t0\t0\t0\t0\nGroups:\t0 \nCapInh:\t0000000000000000\nCapPrm:\t{set}\nCapEff:\t{set}\nCapBnd:\t{set}\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"
    );
    assert_eq!(ran.out, expected, "{ran:?}");
}

#[test]
fn another_user_has_its_groups_and_no_capabilities() {
    for no_new_privs in [true, false] {
        let mut container = Container::new();
        container.launch.process.no_new_privs = no_new_privs;
        container.launch.process.user = User { supplementary: vec![77], ..user("web") };
        let ran = container.sh(&format!("{STATUS}; echo $HOME; touch /x"));
        let set = format!("{:016x}", capabilities::default_set());
        let nnp = u8::from(no_new_privs);
        for line in [
            "Uid:\t101\t101\t101\t101",
            "Gid:\t102\t102\t102\t102",
            "Groups:\t77 102 200 ",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            &format!("CapBnd:\t{set}"),
            &format!("NoNewPrivs:\t{nnp}"),
            "Seccomp:\t2",
            "Umask:\t0022",
            "SigBlk:\t0000000000000000",
            "SigIgn:\t0000000000000000",
            "/srv/web",
        ] {
            assert!(ran.out.lines().any(|found| found == line), "{line:?} not in {ran:?}");
        }
        assert!(ran.err.contains("Permission denied"), "{ran:?}");
        let identity = ran.identity.unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (101, 102, vec![102, 77, 200]));
    }
}

/// P02, D10
#[test]
fn only_the_three_streams_are_open() {
    let ran = Container::new().run_program(&["/bin/ls", "/proc/self/fd"]);
    // 3 is the directory that ls reads.
    assert_eq!(ran.out, "0\n1\n2\n3\n", "{ran:?}");
    for fd in 0..12 {
        let mut container = Container::new();
        container.launch.process.cwd = format!("/proc/self/fd/{fd}");
        let error = container.sh("pwd").error.unwrap_or_else(|| panic!("fd {fd} was entered"));
        assert_eq!(error.step, Step::WorkingDirectory, "{error}");
    }
}

/// D9, P13
#[test]
fn a_working_directory_is_made_inside_the_root() {
    for (cwd, entered) in [("/new/one", "/new/one"), ("/link-abs/x", "/canary/x"), ("/link-up/y", "/canary/y")] {
        let mut container = Container::new();
        container.link("link-abs", "/canary").link("link-up", "../../../../../../canary");
        container.launch.process.cwd = cwd.to_owned();
        let ran = container.sh("pwd");
        assert_eq!(ran.out, format!("{entered}\n"), "{ran:?}");
        assert!(!std::path::Path::new("/canary").exists());
    }
}

/// P04, P08, D4
#[test]
fn an_image_whose_proc_sys_or_dev_is_a_link_is_refused() {
    let canary = tempfile::tempdir().unwrap();
    std::fs::write(canary.path().join("secret"), "s").unwrap();
    for name in ["proc", "sys", "dev"] {
        for target in [canary.path().to_str().unwrap(), "tmp", "../../../../../../../../tmp"] {
            let mut container = Container::new();
            container.link(name, target);
            let error = container.sh("true").error.unwrap_or_else(|| panic!("{name} -> {target} was accepted"));
            assert_eq!(error.to_string(), format!("mount /{name}: is or goes through a symbolic link"));
        }
    }
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 1);
}

fn kept(name: &str, sub_path: Option<&str>) -> MountSource {
    MountSource::Kept { name: name.to_owned(), sub_path: sub_path.map(str::to_owned) }
}

#[test]
fn volumes_land_inside_the_root_only() {
    let mut container = Container::new();
    container.link("data", "/etc/../../../../elsewhere").volume("vol", &[("file", "content\n"), ("sub/deep", "d\n")]);
    let read_only = MountOptions { read_only: true, ..MountOptions::default() };
    container.launch.mounts.extend([
        mount("/data/in", kept("vol", None), MountOptions::default()),
        mount("/ro", kept("vol", None), read_only),
        mount("/sub", kept("vol", Some("sub")), MountOptions::default()),
        mount("/one/file", kept("vol", Some("file")), MountOptions::default()),
        mount("/made", kept("vol", Some("new/dir")), MountOptions::default()),
    ]);
    let ran =
        container.sh("cat /elsewhere/in/file /one/file /sub/deep; echo x > /made/z; ls /ro/new/dir; echo x > /ro/y");
    assert_eq!(ran.out, "content\ncontent\nd\nz\n", "{ran:?}");
    assert!(ran.err.contains("Read-only file system"), "{ran:?}");
}

#[test]
fn a_volume_may_not_cover_the_root_or_proc() {
    for (target, cause) in
        [("/", "leads to the root directory"), ("/p/sys", "leads into /proc"), ("/proc/1", "leads into /proc")]
    {
        let mut container = Container::new();
        container.link("p", "proc").volume("vol", &[]);
        container.launch.mounts.push(mount(target, kept("vol", None), MountOptions::default()));
        let error = container.sh("true").error.unwrap_or_else(|| panic!("{target} was accepted"));
        assert_eq!((error.object.as_str(), error.cause.as_str()), (target, cause));
    }
}

/// P10
#[test]
fn a_sub_path_does_not_leave_its_volume() {
    for sub_path in ["../x", "up", "abs", "/proc/1/root"] {
        let mut container = Container::new();
        container.volume("vol", &[]);
        std::os::unix::fs::symlink("..", container.path("volumes/vol/up")).unwrap();
        std::os::unix::fs::symlink("/etc", container.path("volumes/vol/abs")).unwrap();
        container.launch.mounts.push(mount("/x", kept("vol", Some(sub_path)), MountOptions::default()));
        let error = container.sh("true").error.unwrap_or_else(|| panic!("{sub_path} was accepted"));
        assert!(error.cause.contains("failed to prepare subPath"), "{error}");
    }
}

/// PV2
#[test]
fn a_read_only_root_still_gets_its_mounts_and_directory() {
    let mut container = Container::new();
    container.launch.root.read_only = true;
    container.launch.process.cwd = "/made".to_owned();
    let ran = container.sh("touch /x; echo y > /dev/shm/y && cat /dev/shm/y; pwd");
    assert_eq!(ran.out, "y\n/made\n", "{ran:?}");
    assert!(ran.err.contains("Read-only file system"), "{ran:?}");
}

#[test]
fn as_many_layers_as_the_limit_mount() {
    let mut container = Container::new();
    for number in 0..127 {
        container.layer(&[(&format!("layer-{number}"), "x"), ("top", &number.to_string())]);
    }
    let ran = container.sh("ls / | grep -c layer-; cat /top");
    assert_eq!(ran.out, "127\n126", "{ran:?}");
    container.layer(&[]);
    assert_eq!(container.sh("true").error.unwrap().cause, "129 layers, must be 1 to 128");
}

#[test]
fn failing_programs_give_the_error_that_users_know() {
    for (args, step, text) in [
        (&["nonesuch"][..], Step::LookUpProgram, r#"exec: "nonesuch": executable file not found in $PATH"#),
        (&["/nonesuch"], Step::LookUpProgram, r#"exec: "/nonesuch": no such file or directory"#),
        (&["/etc/passwd"], Step::LookUpProgram, r#"exec: "/etc/passwd": permission denied"#),
        (&["/etc"], Step::LookUpProgram, r#"exec: "/etc": is a directory"#),
        (&[], Step::LookUpProgram, r#"exec: "": no command specified"#),
        (&["/bin/garbage"], Step::Exec, r#"exec: "/bin/garbage": exec format error"#),
    ] {
        let ran = Container::new().run_program(args);
        let error = ran.error.clone().unwrap_or_else(|| panic!("{args:?}: {ran:?}"));
        assert_eq!((error.step, error.to_string()), (step, text.to_owned()));
        assert_eq!(ran.code, Some(128), "{args:?}");
    }
}

/// P18, P19
#[test]
fn hostile_users_are_refused_with_a_text() {
    let failed = |container: &mut Container, name: &str| -> LaunchError {
        container.launch.process.user = user(name);
        container.sh("id").error.unwrap_or_else(|| panic!("{name:?} was accepted"))
    };
    for name in ["2147483648", "4294967296", "-1", "0x0", "+0", " 0", "nobody"] {
        assert_eq!(failed(&mut Container::new(), name).step, Step::LookUpUser, "{name:?}");
    }
    let mut root = Container::new();
    root.launch.process.user = User { non_root: true, ..user("") };
    assert!(root.sh("id").error.unwrap().cause.contains("runAsNonRoot"));
    let mut fifo = Container::new();
    std::fs::remove_file(fifo.path("layer/etc/passwd")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, fifo.path("layer/etc/passwd"), rustix::fs::Mode::RUSR).unwrap();
    assert_eq!(failed(&mut fifo, "web").to_string(), "look up user /etc/passwd: is not a regular file");
    let mut huge = Container::new();
    std::fs::File::create(huge.path("layer/etc/group")).unwrap().set_len(100 << 20).unwrap();
    assert!(failed(&mut huge, "web").cause.contains("/etc/group is larger than"));
}

/// P22: with every capability, only the filter can be what refuses.
#[test]
fn the_default_filter_bites() {
    let all = || {
        let mut container = Container::new();
        container.launch.process.capabilities = capabilities::for_process(capabilities::known_to_kernel());
        container
    };
    let refused = "unshare -m true; mount -t tmpfs x /etc; nsenter -t 1 -n true";
    let ran = all().sh(&format!("{refused}; chroot / /bin/true && echo chroot"));
    assert_eq!(ran.out, "chroot\n", "{ran:?}");
    for text in ["unshare: unshare(0x20000): Operation not permitted", "mount: permission denied", "nsenter: setns()"] {
        assert!(ran.err.contains(text), "{text:?} not in {ran:?}");
    }
    let mut unconfined = all();
    unconfined.launch.process.seccomp = None;
    let ran = unconfined.sh(&format!("{refused}; grep Seccomp: /proc/self/status"));
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("Seccomp:\t0\n", ""));
    let ran = all().probe("sockets");
    let families = ran.out.lines().find(|line| line.starts_with("families"));
    assert_eq!(families, Some("families true false false"), "{ran:?}");
}

/// Not a test: what [`the_default_filter_bites`] runs inside a container.
#[test]
#[ignore = "started by another test"]
fn sockets() {
    use rustix::net::{AddressFamily, SocketType, socket};
    let opened = [libc::AF_INET, libc::AF_ALG, libc::AF_VSOCK].map(|family| {
        let family = AddressFamily::from_raw(u16::try_from(family).unwrap());
        let kind = if family == AddressFamily::INET { SocketType::STREAM } else { SocketType::SEQPACKET };
        match socket(family, kind, None) {
            Ok(_) => true,
            Err(errno) => errno != rustix::io::Errno::PERM,
        }
    });
    println!("\nfamilies {} {} {}", opened[0], opened[1], opened[2]);
}

/// PV6, D21: an unusable filter is never no filter.
#[test]
fn an_unusable_filter_is_refused() {
    for bytes in [&b""[..], b"1234567"] {
        let mut container = Container::new();
        container.filter = bytes.to_vec();
        let error = container.sh("true").error.unwrap();
        assert_eq!(error.to_string(), "load seccomp profile filter: is empty or not a whole program");
    }
    let mut container = Container::new();
    container.filter = vec![0xff; 8];
    assert_eq!(container.sh("true").error.unwrap().step, Step::Seccomp);
}

/// P39, D46
#[test]
fn odd_attributes_of_the_starter_do_not_show() {
    let look = "grep -E '^(Sig(Blk|Ign)|Umask|Cpus_allowed:|Groups|NoNewPrivs|THP)' /proc/self/status; \
        cat /proc/self/limits; cut -d' ' -f18,19,40,41 /proc/self/stat; cat /proc/self/timerslack_ns /proc/self/personality";
    let clean = Container::new().sh(look);
    let mut odd = Container::new();
    odd.prefix = "trap '' PIPE HUP USR1; umask 0; ulimit -S -n 99; ulimit -S -c 5; ulimit -S -s 512; exec nice -n 5 \
        ionice -c 3 chrt -b 0 taskset 1 setarch -R \"$@\""
        .to_owned();
    let odd = odd.sh(look);
    assert_eq!(odd.error, None);
    assert_eq!(odd.out, clean.out);
    assert!(clean.out.lines().count() > 20, "{clean:?}");
}

#[test]
fn limits_are_those_asked_for() {
    let mut container = Container::new();
    container.launch.process.rlimits = vec![Rlimit { resource: 7, soft: 100, hard: 200 }];
    let ran = container.sh("ulimit -Sn; ulimit -Hn; ulimit -c");
    assert_eq!(ran.out, "100\n200\n0\n");
}

/// D14
#[test]
fn a_terminal_is_of_the_containers_own_devpts() {
    let mut container = Container::new();
    container.launch.process.terminal = true;
    let ran = container.sh("tty; stat -c %t /dev/console; ls /dev/pts | tr '\\n' ' '; echo $TERM; echo x > /dev/tty");
    assert_eq!(ran.out, "/dev/pts/0\r\n88\r\n0 ptmx xterm\r\nx\r\n", "{ran:?}");
}

/// Kernel floor 6.1: the older way of naming layers must go on working on new kernels, too.
#[test]
fn both_ways_to_name_layers_work() {
    let output = harness::in_new_mount_namespace("overlay_both_ways");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

/// Not a test: needs a mount namespace to spoil.
#[test]
#[ignore = "started by another test"]
fn overlay_both_ways() {
    for method in [overlay::Method::Descriptors, overlay::Method::OptionString] {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            std::fs::File::open(dir.path().join(name)).unwrap()
        };
        let layers: Vec<_> = (0..overlay::MAX_LAYERS).map(|number| open(&format!("layer{number}"))).collect();
        for number in 0..overlay::MAX_LAYERS {
            let layer = dir.path().join(format!("layer{number}"));
            std::fs::write(layer.join(format!("file{number}")), "").unwrap();
            std::fs::write(layer.join("top"), number.to_string()).unwrap();
        }
        let _parts = (open("scratch/upper"), open("scratch/work"));
        let scratch = open("scratch");
        let layers: Vec<_> = layers.iter().map(AsFd::as_fd).collect();
        let root = overlay::mount_root_by(method, &layers, scratch.as_fd(), None).unwrap();
        let root = format!("/proc/self/fd/{}", root.as_raw_fd());
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), overlay::MAX_LAYERS + 1, "{method:?}");
        assert_eq!(std::fs::read_to_string(format!("{root}/top")).unwrap(), "0", "{method:?}");
        std::fs::write(format!("{root}/new"), "").unwrap();
        assert!(dir.path().join("scratch").exists() && !dir.path().join("layer0/new").exists());
        rustix::mount::unmount(dir.path().join("scratch"), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(dir.path().join("scratch/upper/new").exists(), "{method:?}");
    }
}

/// PV1
#[test]
fn a_privileged_container_has_the_hosts_devices_and_can_mount() {
    let mut container = Container::privileged();
    container.launch.process.capabilities = capabilities::for_process(capabilities::known_to_kernel());
    let ran = container.sh("ls /dev/kmsg; mkdir -p /tmp; mount -t tmpfs x /tmp && echo mounted");
    assert_eq!(ran.out, "/dev/kmsg\nmounted\n", "{ran:?}");
}

#[test]
fn a_process_that_is_never_let_go_ends_quietly() {
    let mut container = Container::new();
    container.give_up = true;
    let ran = container.sh("echo never");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.identity.is_some());
}
