//! What happens between clone and exec: a straight line, in the order of D13 and D46.
//!
//! The child of the monitor is a fork of a single-threaded process, so ordinary code may run. It decides nothing: the plan
//! says everything. Whatever it reads below the container's root was written by strangers.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{fchdir, getcwd, pivot_root};
use serde::de::DeserializeOwned;

use super::credentials::{self, Sealed};
use super::failure::{At, Result, failed, refuse};
use super::launch::{FdSlot, Identity, Launch, LaunchError, Process, Step};
use super::mounts::{Mounter, new_filesystem};
use super::terminal::{self, Terminal};
use super::tree::{DIRECTORY_MODE, Leaf, Links, Tree};
use super::users::{self, Accounts, Resolved};
use super::{attributes, devices, overlay, program, user_namespace};
use crate::monitor::channel::{ChildChannel, ChildPlan, Streams, Users, Work};
use crate::sys::exec::execve;
use crate::sys::mount::{MountAttributes, Propagation, Reach, mount_setattr};
use crate::sys::seccomp::{INSTRUCTION_BYTES, MAX_INSTRUCTIONS, Program};

/// Largest launch plan (environment and arguments are limited to 1.5 MiB, D34).
pub const MAX_PLAN_BYTES: usize = 4 << 20;

/// Turns the calling process into a container's process, or reports why not and ends.
pub fn run(plan: &ChildPlan<'_>, channel: ChildChannel) -> ! {
    match prepare_and_exec(plan, &channel) {
        Ok(never) => match never {},
        Err(Ended::Abandoned) => crate::sys::exit_now(0),
        Err(Ended::Failed(error)) => channel.fail(&error),
    }
}

/// Why there is no process.
enum Ended {
    /// The monitor gave up or died before it said go.
    Abandoned,
    Failed(LaunchError),
}

impl From<LaunchError> for Ended {
    fn from(error: LaunchError) -> Self {
        Self::Failed(error)
    }
}

fn prepare_and_exec(plan: &ChildPlan<'_>, channel: &ChildChannel) -> std::result::Result<Infallible, Ended> {
    attributes::reset()?;
    let prepared = match plan.work {
        Work::Container { launch } => {
            let launch: Launch = read_plan(launch)?;
            let terminal = build_root(plan, &launch)?;
            Prepared::new(plan, &launch.process, terminal)?
        }
        Work::Exec { process } => {
            let process: Process = read_plan(process)?;
            let root = own_root()?;
            let terminal = process.terminal.then(|| terminal::open(Tree(root.as_fd())));
            Prepared::new(plan, &process, terminal.transpose()?)?
        }
    };
    let master = prepared.terminal.as_ref().map(|terminal| terminal.master.as_fd());
    let sent = channel.prepared(&prepared.identity, master);
    sent.at(Step::Exec, "the monitor", "sendmsg")?;
    if !channel.wait_for_go().at(Step::Exec, "the monitor", "recv")? {
        return Err(Ended::Abandoned);
    }
    Err(prepared.exec().into())
}

/// Reads a plan from a memfd whose offset others share.
fn read_plan<T: DeserializeOwned>(memfd: BorrowedFd<'_>) -> Result<T> {
    let object = "plan";
    let bytes = read_at_most(memfd, MAX_PLAN_BYTES, Step::Read, object)?;
    serde_json::from_slice(&bytes).map_err(|error| refuse(Step::Read, object, error.to_string()))
}

fn read_at_most(fd: BorrowedFd<'_>, limit: usize, step: Step, object: &str) -> Result<Vec<u8>> {
    let file = File::from(fd.try_clone_to_owned().at(step, object, "dup")?);
    let size = file.metadata().at(step, object, "fstat")?.len();
    let Some(size) = usize::try_from(size).ok().filter(|size| *size <= limit) else {
        return Err(refuse(step, object, format!("{size} bytes are more than {limit}")));
    };
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0).at(step, object, "pread")?;
    Ok(bytes)
}

/// Makes the container's file system and enters it. The terminal is opened on the way, since `/dev/console` is one of
/// the mounts.
fn build_root(plan: &ChildPlan<'_>, launch: &Launch) -> Result<Option<Terminal>> {
    if let Some(users) = &plan.users {
        user_namespace::make_files_as_root_of(users.ids)?;
    }
    // Modes below are meant as written.
    rustix::process::umask(Mode::empty());
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let volumes = rustix::fs::openat(CWD, ".", directory, Mode::empty()).at(Step::Mount, "volumes", "openat")?;
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .at(Step::Mask, "/dev/null", "openat")?;
    let host = own_root()?;
    let private = MountAttributes { propagation: Some(Propagation::Private), ..MountAttributes::default() };
    mount_setattr(&host, Reach::Recursive, private).at(Step::MountRoot, "/", "mount_setattr(private)")?;

    let layers = launch.root.layers.iter().map(|slot| fd(plan, *slot, Step::MountRoot)).collect::<Result<Vec<_>>>()?;
    let (namespace, ids) = (plan.users.map(|users| users.namespace), plan.users.map(|users| users.ids));
    let root = overlay::mount_root(&layers, fd(plan, launch.root.scratch, Step::MountRoot)?, namespace)?;
    let tree = Tree(root.as_fd());
    let mounter = Mounter { tree, volumes: volumes.as_fd(), fds: plan.fds, null: null.as_fd(), ids };

    mount_all(&mounter, launch)?;
    mounter.make_read_only(&launch.read_only_paths)?;
    mounter.mask(&launch.masked_paths)?;
    make_working_directory(tree, &launch.process.cwd)?;
    let terminal = launch.process.terminal.then(|| terminal::open(tree)).transpose()?;
    if let Some(terminal) = &terminal {
        terminal.attach_console(&mounter)?;
    }
    if launch.root.read_only {
        let read_only = MountAttributes { read_only: true, ..MountAttributes::default() };
        mount_setattr(&root, Reach::Top, read_only).at(Step::MountRoot, "/", "mount_setattr(read-only)")?;
    }
    enter(&root)?;
    Ok(terminal)
}

fn mount_all(mounter: &Mounter<'_>, launch: &Launch) -> Result<()> {
    let is_dev = |target: &str| super::tree::clean(target).as_slice() == ["dev"];
    if !launch.mounts.iter().any(|mount| is_dev(&mount.target)) {
        let dev = mounter.mount(&devices::dev_mount())?;
        devices::populate(mounter, &dev, launch.devices)?;
    }
    for mount in &launch.mounts {
        let made = mounter.mount(mount)?;
        if is_dev(&mount.target) && matches!(mount.source, super::launch::MountSource::Tmpfs { .. }) {
            devices::populate(mounter, &made, launch.devices)?;
        }
    }
    Ok(())
}

/// `pivot_root` with both arguments alike stacks the old root over the new one, from where it is detached: no directory
/// of the image is needed for it.
fn enter(root: &OwnedFd) -> Result<()> {
    let step = Step::PivotRoot;
    fchdir(root).at(step, "/", "fchdir")?;
    pivot_root(".", ".").at(step, "/", "pivot_root")?;
    unmount(".", UnmountFlags::DETACH).at(step, "/", "umount2(MNT_DETACH)")?;
    rustix::process::chdir("/").at(step, "/", "chdir")
}

fn own_root() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/", flags, Mode::empty()).at(Step::PivotRoot, "/", "openat")
}

fn fd<'a>(plan: &ChildPlan<'a>, slot: FdSlot, step: Step) -> Result<BorrowedFd<'a>> {
    plan.fd(slot).ok_or_else(|| refuse(step, "plan", format!("no descriptor {} was sent", slot.0)))
}

/// A process that only waits for the go.
struct Prepared {
    identity: Identity,
    terminal: Option<Terminal>,
    sealed: Sealed,
    name: String,
    file: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Prepared {
    /// In the container's root, as the host's root still.
    fn new(plan: &ChildPlan<'_>, process: &Process, terminal: Option<Terminal>) -> Result<Self> {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let mut root = own_root()?;
        let user = look_up_user(Tree(root.as_fd()), process)?;
        write_to_procfs(process, plan.users.as_ref())?;
        attributes::set_limits(&process.rlimits)?;
        let filter = process.seccomp.map(|slot| read_filter(plan, slot)).transpose()?;
        let uid = match &plan.users {
            Some(users) => user_namespace::host_uid(users.ids, &user.identity)?,
            None => user.identity.uid,
        };
        set_streams(plan, terminal.as_ref(), uid)?;
        if let Some(users) = &plan.users {
            user_namespace::enter(users, plan.work)?;
            root = own_root()?;
        }
        let sealed = credentials::assume(&user.identity, &process.capabilities, process.no_new_privs, filter)?;
        if plan.users.is_some() {
            // Changing users may have undone it (proc_sys_fs(5), suid_dumpable), and who shares the user namespace could
            // look at what is still open here.
            attributes::hide()?;
        }
        // From here on as the user: what it may not reach, it may not be given (D9).
        enter_working_directory(Tree(root.as_fd()), &process.cwd)?;
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let additions = program::Additions { home: &user.home, hostname: &hostname, terminal: process.terminal };
        let env = program::environment(&process.env, &additions);
        let name = process.args.first().ok_or_else(|| refuse(Step::LookUpProgram, "\"\"", "no command specified"))?;
        let file = program::find(name, &env)?;
        close_on_exec()?;
        Ok(Self {
            identity: user.identity,
            terminal,
            sealed,
            name: name.clone(),
            file: CString::new(file).map_err(|error| refuse(Step::Exec, name, error.to_string()))?,
            args: program::strings(&process.args, "arguments")?,
            env: program::strings(&env, "environment")?,
        })
    }

    fn exec(self) -> LaunchError {
        match self.sealed.close() {
            Ok(()) => program::not_executed(&self.name, &execve(&self.file, &self.args, &self.env)),
            Err(error) => error,
        }
    }
}

/// D10: nothing above the three streams outlives the exec, whatever flags it was opened with.
fn close_on_exec() -> Result<()> {
    crate::sys::fd::cloexec_from(3).at(Step::Exec, "descriptors", "close_range")
}

fn look_up_user(tree: Tree<'_>, process: &Process) -> Result<Resolved> {
    let step = Step::LookUpUser;
    let name = if process.user.name.is_empty() { "0" } else { &process.user.name };
    let passwd = account_file(tree, "/etc/passwd")?;
    let group = account_file(tree, "/etc/group")?;
    let resolved = Accounts::parse(&passwd, &group).and_then(|accounts| users::resolve(&process.user, &accounts));
    resolved.map_err(|error| refuse(step, &format!("{name:?}"), error.to_string()))
}

/// A regular file of the image, empty when there is none (D15).
fn account_file(tree: Tree<'_>, path: &str) -> Result<Vec<u8>> {
    let step = Step::LookUpUser;
    let relative = path.trim_start_matches('/');
    // Opening a device or a FIFO for reading may do something; a handle does not.
    let handle = match tree.open(relative, OFlags::PATH, Links::Follow) {
        Ok(handle) => handle,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(step, path, "openat2", errno)),
    };
    refuse_irregular(&handle, path)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = tree.open(relative, flags, Links::Follow).at(step, path, "openat2")?;
    refuse_irregular(&file, path)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(users::MAX_FILE_BYTES).unwrap_or(u64::MAX) + 1;
    File::from(file).take(limit).read_to_end(&mut bytes).at(step, path, "read")?;
    Ok(bytes)
}

fn refuse_irregular(file: &OwnedFd, path: &str) -> Result<()> {
    let found = rustix::fs::fstat(file).at(Step::LookUpUser, path, "fstat")?;
    if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
        Ok(())
    } else {
        Err(refuse(Step::LookUpUser, path, "is not a regular file"))
    }
}

/// Attributes that are files of the own `/proc/self`, written through a procfs that nobody else can reach (D3).
fn write_to_procfs(process: &Process, users: Option<&Users<'_>>) -> Result<()> {
    if process.oom_score_adj.is_none() && process.apparmor.is_none() {
        return Ok(());
    }
    let own = match users {
        Some(users) => user_namespace::own_directory(users)?,
        None => private_directory()?,
    };
    if let Some(score) = process.oom_score_adj {
        let name = "oom_score_adj";
        match write_below(&own, name, &score.to_string()) {
            // Lowering needs CAP_SYS_RESOURCE; a daemon without it cannot protect what it starts.
            Err(Errno::ACCESS | Errno::PERM) => {}
            other => other.at(Step::Credentials, name, "write")?,
        }
    }
    if let Some(profile) = &process.apparmor {
        let text = format!("exec {profile}");
        write_below(&own, "attr/apparmor/exec", &text).at(Step::Credentials, "AppArmor profile", "write")?;
    }
    Ok(())
}

/// The own directory in a new procfs.
fn private_directory() -> Result<OwnedFd> {
    let object = "private procfs";
    let proc = new_filesystem("proc", &[], object)?;
    let path = rustix::process::getpid().as_raw_nonzero().to_string();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&proc, path, flags, Mode::empty()).at(Step::Credentials, object, "openat")
}

fn write_below(own: &OwnedFd, name: &str, text: &str) -> std::result::Result<(), Errno> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let file = super::tree::open(own, name, OFlags::WRONLY, resolve)?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

fn read_filter(plan: &ChildPlan<'_>, slot: FdSlot) -> Result<Program> {
    let step = Step::Seccomp;
    let bytes = read_at_most(fd(plan, slot, step)?, MAX_INSTRUCTIONS * INSTRUCTION_BYTES, step, "filter")?;
    Program::from_bytes(&bytes).ok_or_else(|| refuse(step, "filter", "is empty or not a whole program"))
}

/// Descriptors 0 to 2. A pipe is given to the user, so that it can be opened again as `/dev/stdout`.
fn set_streams(plan: &ChildPlan<'_>, terminal: Option<&Terminal>, uid: u32) -> Result<()> {
    let step = Step::Terminal;
    let (stdin, stdout, stderr) = match (plan.streams, terminal) {
        (_, Some(terminal)) => {
            terminal.take(uid)?;
            (terminal.slave(), terminal.slave(), terminal.slave())
        }
        (Streams::Given { stdin, stdout, stderr }, None) => (stdin, stdout, stderr),
        (Streams::Terminal, None) => {
            return Err(refuse(step, "streams", "no terminal was asked for and none given"));
        }
    };
    for stream in [stdin, stdout, stderr] {
        let found = rustix::fs::fstat(stream).at(step, "stream", "fstat")?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Fifo {
            let owner = rustix::fs::Uid::from_raw(uid);
            rustix::fs::fchown(stream, Some(owner), None).at(step, "stream", "fchown")?;
        }
    }
    rustix::stdio::dup2_stdin(stdin).at(step, "stdin", "dup2")?;
    rustix::stdio::dup2_stdout(stdout).at(step, "stdout", "dup2")?;
    rustix::stdio::dup2_stderr(stderr).at(step, "stderr", "dup2")
}

/// Made while the root can still be written.
fn make_working_directory(tree: Tree<'_>, cwd: &str) -> Result<()> {
    let made = tree.make(cwd, Leaf::Directory(DIRECTORY_MODE), Links::Follow);
    made.map(drop).at(Step::WorkingDirectory, cwd, "openat2")
}

/// D9: by descriptor, as the user; magic links (`/proc/self/fd/N`) lead nowhere.
fn enter_working_directory(tree: Tree<'_>, cwd: &str) -> Result<()> {
    let step = Step::WorkingDirectory;
    if !cwd.starts_with('/') {
        return Err(refuse(step, cwd, "is not an absolute path"));
    }
    let path = format!("./{cwd}");
    let directory = tree.open(&path, OFlags::PATH | OFlags::DIRECTORY, Links::Follow).at(step, cwd, "openat2")?;
    fchdir(&directory).at(step, cwd, "fchdir")?;
    let found = getcwd(Vec::new()).at(step, cwd, "getcwd")?;
    if found.as_bytes().starts_with(b"/") { Ok(()) } else { Err(refuse(step, cwd, "is outside of the container")) }
}
