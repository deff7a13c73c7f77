//! The kernel's cgroup2.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::{errno, mounted};
use crate::member::Member;
use crate::subject::{Attribute, Kind, Needs, Owner, Sys};
use crate::syscalls::{ABILITIES, Syscalls};

/// The pressure files of the whole system.
const SYSTEM: &str = "/proc/pressure";

/// What the names of the groups that are made here begin with.
const PREFIX: &str = "kernfs-tests-";

/// The owner's side of control groups: a group of its own, below the one of this process.
#[derive(Debug)]
pub struct Cgroup2 {
    /// The group of this process.
    home: PathBuf,
    base: PathBuf,
    members: Mutex<HashMap<String, Member>>,
    /// Processes that contend for a processor, by their group.
    loads: Mutex<HashMap<String, [Member; 2]>>,
    controller: Result<Controller, String>,
    count: AtomicUsize,
}

impl Cgroup2 {
    /// Makes the group.
    ///
    /// # Errors
    ///
    /// Tells why that is not possible here.
    pub fn subject() -> Result<Syscalls<Self>, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let root = mounted("cgroup2")?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let home = root.join(own.ok_or("this process is in no group of cgroup2")?);
        let count = COUNT.fetch_add(1, SeqCst);
        let base = home.join(format!("{PREFIX}{}-{count}", std::process::id()));
        fs::create_dir(&base).map_err(|error| format!("no group can be made: {error}"))?;
        let (members, loads) = (Mutex::default(), Mutex::default());
        let (controller, count) = (Err("not looked for".to_owned()), AtomicUsize::new(0));
        // From here on, it is removed again.
        let mut owner = Self { home, base, members, loads, controller, count };
        owner.controller = Controller::enable(&owner.home, &owner.base);
        let probe = owner.base.join("cgroup.events").display().to_string();
        let mut subject = Syscalls::new(owner);
        subject.probe_handles(&probe);
        Ok(subject)
    }

    fn fresh(&self) -> PathBuf {
        self.base.join(format!("t{}", self.count.fetch_add(1, SeqCst)))
    }
}

fn write(path: &Path, text: &str) -> Sys<()> {
    fs::write(path, text).map_err(|error| errno(&error))
}

impl Owner for Cgroup2 {
    fn name(&self) -> String {
        "Linux cgroup2".into()
    }

    fn kind(&self) -> Kind {
        Kind::Kernel
    }

    fn can(&self) -> Needs {
        let mut can = ABILITIES | Needs::CGROUPS | Needs::MEMBERS | Needs::HANDLES;
        can.set(Needs::PRESSURE_FILES, self.base.join("cgroup.pressure").exists());
        can.set(Needs::LOAD, self.base.join("cpu.pressure").exists());
        can.set(Needs::SYSTEM_PRESSURE, Path::new(SYSTEM).join("cpu").exists());
        can.set(Needs::ATTRIBUTES, self.controller.is_ok());
        can
    }

    fn why_not(&self, needs: Needs) -> Option<String> {
        match needs {
            Needs::ATTRIBUTES => self.controller.as_ref().err().cloned(),
            Needs::PRESSURE_FILES => Some("this kernel has no cgroup.pressure".into()),
            Needs::LOAD | Needs::SYSTEM_PRESSURE => Some("this kernel accounts no pressure".into()),
            Needs::DEVICES => Some("cgroup2 has no devices".into()),
            Needs::NAMESPACES => Some("cgroup2 has no tagged directories".into()),
            _ => None,
        }
    }

    fn cgroup(&self) -> Sys<String> {
        let path = self.fresh();
        fs::create_dir(&path).map_err(|error| errno(&error))?;
        Ok(path.display().to_string())
    }

    fn populate(&self, dir: &str, is_populated: bool) -> Sys<()> {
        let mut members = self.members.lock().unwrap();
        if is_populated {
            let member = Member::new()?;
            write(&Path::new(dir).join("cgroup.procs"), &member.id().to_string())?;
            members.insert(dir.into(), member);
        } else if let Some(member) = members.remove(dir) {
            write(&self.home.join("cgroup.procs"), &member.id().to_string())?;
        }
        Ok(())
    }

    fn load(&self, dir: &str, is_loaded: bool) -> Sys<()> {
        // Those of before are killed and waited for, whatever is to come.
        drop(self.loads.lock().unwrap().remove(dir));
        if is_loaded {
            let spinners = [Member::spinning()?, Member::spinning()?];
            for spinner in &spinners {
                write(&Path::new(dir).join("cgroup.procs"), &spinner.id().to_string())?;
            }
            self.loads.lock().unwrap().insert(dir.into(), spinners);
        }
        Ok(())
    }

    fn pass(&self, time: Duration) -> Sys<()> {
        std::thread::sleep(time);
        Ok(())
    }

    fn time(&self) -> Sys<Duration> {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::try_from(time).map_err(|_| crate::errno::EINVAL)
    }

    fn system(&self) -> Sys<String> {
        Ok(SYSTEM.into())
    }

    fn attribute(&self) -> Sys<Attribute> {
        let controller = self.controller.as_ref().map_err(|_| crate::errno::ENOSYS)?;
        let group = self.fresh();
        let path = group.join("child").join(&controller.file).display().to_string();
        fs::create_dir_all(group.join("child")).map_err(|error| errno(&error))?;
        let attribute = Attribute { path };
        self.set_present(&attribute, true)?;
        Ok(attribute)
    }

    /// Files of a controller come and go with it.
    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        let controller = self.controller.as_ref().map_err(|_| crate::errno::ENOSYS)?;
        let group = Path::new(&attribute.path).ancestors().nth(2).ok_or(crate::errno::ENOENT)?;
        controller.set(group, is_present)
    }
}

impl Drop for Cgroup2 {
    fn drop(&mut self) {
        // Killed and waited for, so that no group has a member any more.
        self.members.get_mut().unwrap().clear();
        self.loads.get_mut().unwrap().clear();
        remove_groups(&self.base);
        if let Ok(Controller { name, was_on: false, .. }) = &self.controller {
            let _ = write(&self.home.join("cgroup.subtree_control"), &format!("-{name}"));
        }
    }
}

fn remove_groups(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_groups(&entry.path());
    }
    if let Err(error) = fs::remove_dir(dir) {
        eprintln!("{} is left over: {error}", dir.display());
    }
}

/// A controller that can be switched on and off below the group of this process.
#[derive(Debug)]
struct Controller {
    name: &'static str,
    /// A file of it that tells changes.
    file: String,
    /// Whether it was on already.
    was_on: bool,
}

impl Controller {
    fn enable(home: &Path, base: &Path) -> Result<Self, String> {
        const KNOWN: [(&str, &str); 4] = [
            ("pids", "pids.events"),
            ("memory", "memory.events"),
            ("misc", "misc.events"),
            ("hugetlb", ".events"),
        ];
        let list = |file: &str| fs::read_to_string(home.join(file)).unwrap_or_default();
        let has = |list: &str, name: &str| list.split_whitespace().any(|other| other == name);
        let (available, on) = (list("cgroup.controllers"), list("cgroup.subtree_control"));
        let mut reason = "no controller with an events file is on cgroup2".to_owned();
        for (name, ending) in KNOWN.into_iter().filter(|(name, _)| has(&available, name)) {
            // Another run beside this one leaves it to the last of them to switch it off.
            let was_on = has(&on, name) && !has_other_runs(home, base);
            let mut controller = Self { name, file: String::new(), was_on };
            let enabled = [home, base].iter().try_for_each(|dir| controller.set(dir, true));
            if let Err(errno) = enabled {
                reason = format!("the controller {name} cannot be switched on: errno {errno}");
                continue;
            }
            // The name depends on the machine's size of huge pages, for one of them.
            let probe = base.join("probe");
            let made = fs::create_dir(&probe);
            let names = fs::read_dir(&probe).into_iter().flatten().flatten();
            let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let file = names.find(|file| file.starts_with(name) && file.ends_with(ending));
            drop(made.and_then(|()| fs::remove_dir(&probe)));
            if let Some(file) = file {
                controller.file = file;
                return Ok(controller);
            }
            let _ = controller.set(base, false);
            if !was_on {
                let _ = controller.set(home, false);
            }
        }
        Err(reason)
    }

    fn set(&self, group: &Path, is_on: bool) -> Sys<()> {
        let sign = if is_on { '+' } else { '-' };
        write(&group.join("cgroup.subtree_control"), &format!("{sign}{}", self.name))
    }
}

fn has_other_runs(home: &Path, base: &Path) -> bool {
    let entries = fs::read_dir(home).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path()).filter(|path| path != base);
    paths.any(|path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
    })
}
