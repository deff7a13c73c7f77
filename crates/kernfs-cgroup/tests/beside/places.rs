//! Where steps are taken: below a group of its own of the kernel's, or of ours.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use kernfs_cgroup::{Controllers, Hierarchy, Processes};
use kernfs_fuse::Mount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::support::skip;

/// Takes the same steps in both places, and compares what came of them.
pub fn compare(steps: impl Fn(&Place)) {
    // They move this very process about.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !kernel_is_followed() {
        return skip("this kernel is older than Linux 6.18, whose files are followed");
    }
    let (kernel, ours) = match (Place::kernel(), Place::ours()) {
        (Ok(kernel), Ok(ours)) => (kernel, ours),
        (Err(reason), _) | (_, Err(reason)) => return skip(reason),
    };
    steps(&kernel);
    steps(&ours);
    let (kernel, ours) = (kernel.transcript(), ours.transcript());
    assert!(!kernel.is_empty(), "nothing was compared");
    for (kernel, ours) in kernel.iter().zip(&ours) {
        assert_eq!(ours, kernel, "ours is left, the kernel's right");
    }
    assert_eq!(kernel.len(), ours.len());
}

fn kernel_is_followed() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(18))
}

/// One of the two.
pub struct Place {
    root: PathBuf,
    /// A group of this test's own, in which the steps are taken.
    base: PathBuf,
    controller: Option<Controller>,
    transcript: RefCell<Vec<String>>,
    /// Unmounted before the hierarchy goes.
    _mount: Option<(Mount, Hierarchy)>,
}

/// A domain controller that the group passes on.
struct Controller {
    name: String,
    /// Whether it is to be switched off at the root again.
    is_ours: bool,
}

impl Place {
    fn kernel() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let root = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let is_it = kind == "cgroup2" && options.split(',').any(|option| option == "rw");
            is_it.then(|| PathBuf::from(path))
        });
        let root = root.ok_or("no cgroup2 is mounted for writing")?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if !own.lines().any(|line| line == "0::/") {
            return Err("this process is not in the root of cgroup2".into());
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, SeqCst);
        // The conformance cases begin their names like this, too: who is last switches off.
        let base = root.join(format!("kernfs-tests-{}-groups-{count}", std::process::id()));
        fs::create_dir(&base).map_err(|error| format!("no group can be made: {error}"))?;
        let mut place = Self::new(root, base, None);
        place.controller = place.pass_on(&["hugetlb", "memory", "io", "misc"]);
        if place.controller.is_none() {
            skip("controllers, for none can be switched on in cgroup2");
        }
        Ok(place)
    }

    fn ours() -> Result<Self, String> {
        let hierarchy =
            Hierarchy::builder().processes(Processes::Act).controllers(Controllers::MEMORY);
        let hierarchy = hierarchy.build().map_err(|errno| errno.to_string())?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, SeqCst);
        let root =
            std::env::temp_dir().join(format!("kernfs-cgroup-{}-{count}", std::process::id()));
        fs::create_dir(&root).map_err(|error| error.to_string())?;
        let mount = Mount::new(hierarchy.tree(), &root).map_err(|error| {
            let _ = fs::remove_dir(&root);
            format!("nothing can be mounted: {error}")
        })?;
        let base = root.join("base");
        fs::create_dir(&base).expect("ours lets groups be made");
        let mut place = Self::new(root, base, Some((mount, hierarchy)));
        place.controller = place.pass_on(&["memory"]);
        assert!(place.controller.is_some(), "ours has controllers");
        Ok(place)
    }

    fn new(root: PathBuf, base: PathBuf, mount: Option<(Mount, Hierarchy)>) -> Self {
        Self { root, base, controller: None, transcript: RefCell::default(), _mount: mount }
    }

    fn pass_on(&self, names: &[&str]) -> Option<Controller> {
        let list = |file: &str| fs::read_to_string(self.root.join(file)).unwrap_or_default();
        let has = |list: &str, name: &str| list.split_whitespace().any(|other| other == name);
        let (there, on) = (list("cgroup.controllers"), list("cgroup.subtree_control"));
        let set = |dir: &Path, name: &str| {
            fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")).is_ok()
        };
        let name = names
            .iter()
            .find(|name| has(&there, name) && set(&self.root, name) && set(&self.base, name))?;
        Some(Controller { name: (*name).into(), is_ours: !has(&on, name) })
    }

    fn transcript(&self) -> Vec<String> {
        self.transcript.borrow().clone()
    }

    /// Returns a path in the place; from its root, if it begins with a slash.
    pub fn at(&self, path: &str) -> PathBuf {
        match path.strip_prefix('/') {
            Some(path) => self.root.join(path),
            None => self.base.join(path),
        }
    }

    /// Notes what came of a step.
    pub fn note(&self, step: &str, answer: &str) {
        self.transcript.borrow_mut().push(format!("{step}: {answer}"));
    }

    /// Returns the controller that the group of the test passes on; notes nothing.
    pub fn controller(&self) -> Option<String> {
        self.controller.as_ref().map(|controller| controller.name.clone())
    }

    /// Returns the names of the files in a group, without those of the controller, in order.
    pub fn files(&self, dir: &str) -> Vec<String> {
        let mut names = self.names(dir);
        let own = |name: &String| {
            ["cgroup.", "cpu.", "io.pressure", "memory.pressure"]
                .iter()
                .any(|p| name.starts_with(p))
        };
        names.retain(own);
        names
    }

    /// Returns the names of the controller's files in a group.
    pub fn controller_files(&self, dir: &str) -> Vec<String> {
        let prefix = format!("{}.", self.controller().expect("there is one"));
        let mut names = self.names(dir);
        names.retain(|name| name.starts_with(&prefix) && name != "memory.pressure");
        names
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(dir)).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut names: Vec<_> =
            files.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self._mount.is_none() {
            remove_groups(&self.base);
            if let Some(Controller { name, is_ours: true }) = &self.controller {
                // Refused while another test passes it on.
                let _ = fs::write(self.root.join("cgroup.subtree_control"), format!("-{name}"));
            }
        } else {
            self._mount.take();
            let _ = fs::remove_dir(&self.root);
        }
    }
}

/// Removes a group with all below it, where a test has failed with members in it.
fn remove_groups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(dir) {
        eprintln!("{} is left over: {error}", dir.display());
    }
}

/// Steps.
impl Place {
    pub fn mkdir(&self, path: &str) {
        self.note(&format!("mkdir {path:?}"), &answer(fs::create_dir(self.at(path))));
    }

    pub fn rmdir(&self, path: &str) {
        self.note(&format!("rmdir {path:?}"), &answer(fs::remove_dir(self.at(path))));
    }

    pub fn unlink(&self, path: &str) {
        self.note(&format!("unlink {path:?}"), &answer(fs::remove_file(self.at(path))));
    }

    pub fn rename(&self, from: &str, to: &str) {
        let renamed = fs::rename(self.at(from), self.at(to));
        self.note(&format!("rename {from:?} to {to:?}"), &answer(renamed));
    }

    pub fn create(&self, path: &str) {
        let created = File::options().write(true).create_new(true).open(self.at(path));
        self.note(&format!("create {path:?}"), &answer(created.map(drop)));
    }

    pub fn chmod(&self, path: &str, mode: u32) {
        let changed = fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode));
        self.note(&format!("chmod {path:?}"), &answer(changed));
    }

    pub fn stat(&self, path: &str) {
        let stat = fs::symlink_metadata(self.at(path)).map(|stat| {
            let (mode, links, size) = (stat.mode(), stat.nlink(), stat.size());
            format!("{mode:o} {links} links, {size} bytes, {}:{}", stat.uid(), stat.gid())
        });
        self.note(&format!("stat {path:?}"), &answer(stat));
    }

    pub fn read(&self, path: &str) {
        let text = fs::read_to_string(self.at(path)).map(|text| format!("{text:?}"));
        self.note(&format!("read {path:?}"), &self.without_controllers(&answer(text)));
    }

    /// Reads, and notes some of the lines.
    pub fn read_lines(&self, path: &str, keys: &[&str]) {
        let text = fs::read_to_string(self.at(path)).unwrap();
        let has = |line: &&str| keys.iter().any(|key| line.split(' ').next() == Some(key));
        let lines: Vec<_> = text.lines().filter(has).collect();
        self.note(&format!("read {path:?}"), &lines.join(", "));
    }

    /// Reads what tells of a process, whose number differs.
    pub fn read_about(&self, path: &str, pid: u32) {
        let text = fs::read_to_string(self.at(path)).map(|text| format!("{text:?}"));
        // Its own threads are as many as there happen to be.
        let text = answer(text).replace(&pid.to_string(), "PID");
        self.note(&format!("read {path:?}"), &text);
    }

    /// Reads what tells of a controller.
    pub fn read_about_name(&self, path: &str, name: &str) {
        let text = fs::read_to_string(self.at(path)).map(|text| format!("{text:?}"));
        self.note(&format!("read {path:?}"), &answer(text).replace(name, "CTL"));
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let shown = if text.len() > 80 {
            format!("{} bytes", text.len())
        } else {
            text.escape_ascii().to_string()
        };
        self.note(&format!("write {shown} to {path:?}"), &self.write_answer(path, text));
    }

    /// Writes what differs from place to place.
    pub fn write_quietly(&self, path: &str, text: &str) {
        let written = self.write_answer(path, text.as_bytes());
        let written = if written == text.len().to_string() { "all" } else { &written };
        self.note(&format!("write to {path:?}"), written);
    }

    /// Writes what tells of a controller.
    pub fn write_about(&self, path: &str, text: &str, name: &str) {
        let written = self.write_answer(path, text.as_bytes());
        let written = if written == text.len().to_string() { "all" } else { &written };
        self.note(&format!("write {:?} to {path:?}", text.replace(name, "CTL")), written);
    }

    fn write_answer(&self, path: &str, text: &[u8]) -> String {
        // Without O_TRUNC, and for reading where writing is not provided for.
        let file = File::options().write(true).open(self.at(path));
        answer(file.and_then(|file| Ok(rustix::io::write(&file, text)?.to_string())))
    }

    pub fn open_dir(&self, path: &str) -> Dir {
        let dir =
            rustix::fs::open(self.at(path), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Dir(dir.unwrap())
    }

    /// Takes out what each has of its own controllers.
    fn without_controllers(&self, text: &str) -> String {
        let mut lines: Vec<_> = text.split("\\n").collect();
        lines.retain(|line| !line.contains("nr_subsys_") && !line.contains("nr_dying_subsys_"));
        let text = lines.join("\\n");
        match &self.controller {
            Some(controller) => text.replace(&format!("{}\\n", controller.name), "CTL\\n"),
            None => text,
        }
    }
}

fn answer(result: io::Result<impl Shown>) -> String {
    match result {
        Ok(answer) => answer.shown(),
        Err(error) => match rustix::io::Errno::from_io_error(&error) {
            Some(errno) => format!("{errno:?}"),
            None => error.to_string(),
        },
    }
}

trait Shown {
    fn shown(self) -> String;
}

impl Shown for () {
    fn shown(self) -> String {
        "ok".into()
    }
}

impl Shown for String {
    fn shown(self) -> String {
        self
    }
}

/// A directory that is held open.
pub struct Dir(OwnedFd);

impl Dir {
    pub fn open_below(&self, name: &str) -> String {
        let opened =
            rustix::fs::openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        answer(opened.map(drop).map_err(io::Error::from))
    }

    pub fn mkdir_below(&self, name: &str) -> String {
        answer(rustix::fs::mkdirat(&self.0, name, Mode::RWXU).map_err(io::Error::from))
    }
}

/// A file that is held open, for whatever it allows.
pub struct Fd(OwnedFd);

impl Fd {
    pub fn open(path: &Path) -> Self {
        // Root may open for both what is for one.
        let file = File::options().read(true).write(true).custom_flags(0).open(path);
        Self(file.unwrap_or_else(|error| panic!("{}: {error}", path.display())).into())
    }

    /// Reads from the start.
    pub fn read(&self) -> String {
        let mut buffer = [0; 4096];
        let read = rustix::io::pread(&self.0, &mut buffer, 0);
        answer(read.map(|len| buffer[..len].escape_ascii().to_string()).map_err(io::Error::from))
    }

    /// Reads on.
    pub fn read_part(&self, len: usize) -> String {
        let mut buffer = vec![0; len];
        let read = rustix::io::read(&self.0, &mut buffer);
        answer(read.map(|len| buffer[..len].escape_ascii().to_string()).map_err(io::Error::from))
    }

    pub fn write(&self, text: impl AsRef<[u8]>) -> String {
        let written = rustix::io::write(&self.0, text.as_ref());
        answer(written.map(|len| len.to_string()).map_err(io::Error::from))
    }

    /// Polls without waiting.
    pub fn poll(&self, interest: PollFlags) -> String {
        // What only the one kind of file system knows is not asked for.
        let interest = interest.intersection(
            PollFlags::IN | PollFlags::OUT | PollFlags::PRI | PollFlags::RDNORM | PollFlags::WRNORM,
        );
        let mut fds = [PollFd::new(&self.0, interest)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).unwrap();
        let events = fds[0].revents();
        let names: Vec<_> = events.iter_names().map(|(name, _)| name).collect();
        if names.is_empty() { "(empty)".into() } else { names.join(" ") }
    }

    pub fn reopen(&self) -> String {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.0.as_fd().as_raw_fd());
        answer(File::open(path).map(drop))
    }
}
