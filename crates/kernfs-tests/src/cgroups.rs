//! The hierarchy of `kernfs-cgroup`, with real processes as members.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kernfs::{Caller, Clock, Errno, OpenFlags, SystemClock, Timestamp, Tree};
use kernfs_cgroup::{Controllers, Group, Hierarchy, Observer};
use kernfs_psi::{Resource, Task, VirtualClock};

use crate::group_tree::GroupTree;
use crate::member::Member;
use crate::subject::{Attribute, Needs, Sys, errno};

/// The owner's side of the hierarchy.
pub(crate) struct Cgroups {
    hierarchy: Hierarchy,
    accounts: Arc<Accounts>,
    members: Mutex<HashMap<String, Member>>,
    /// Tasks that contend for a processor, by their group.
    loads: Mutex<HashMap<String, Vec<Task>>>,
    /// Stands until the case lets time pass.
    clock: VirtualClock,
    count: AtomicUsize,
}

impl Cgroups {
    pub(crate) fn new() -> Result<Self, Errno> {
        let clock = VirtualClock::new();
        let hierarchy = Hierarchy::builder().clock(Dated(clock.clone())).build()?;
        let accounts = Arc::new(Accounts::default());
        hierarchy.observe(Arc::clone(&accounts) as Arc<dyn Observer>)?;
        // So that it can be switched on and off one level below.
        hierarchy.root().enable(Controllers::MEMORY)?;
        let (members, loads) = (Mutex::default(), Mutex::default());
        Ok(Self { hierarchy, accounts, members, loads, clock, count: AtomicUsize::new(0) })
    }

    fn group(&self, path: &str) -> Sys<Group> {
        self.hierarchy.group(path.trim_start_matches('/')).ok_or(errno::ENOENT)
    }
}

impl GroupTree for Cgroups {
    fn name(&self) -> &'static str {
        "kernfs-cgroup"
    }

    fn tree(&self) -> &Tree {
        self.hierarchy.tree()
    }

    fn can(&self) -> Needs {
        Needs::ATTRIBUTES
    }

    fn populate(&self, path: &str, is_populated: bool) -> Sys<()> {
        let mut members = self.members.lock().unwrap();
        if is_populated {
            let member = Member::new()?;
            self.group(path)?.add_member(member.id()).map_err(Errno::raw)?;
            members.insert(path.into(), member);
        } else if let Some(member) = members.remove(path) {
            self.hierarchy.root().add_member(member.id()).map_err(Errno::raw)?;
        }
        Ok(())
    }

    fn load(&self, path: &str, is_loaded: bool) -> Sys<()> {
        let mut loads = self.loads.lock().unwrap();
        loads.remove(path);
        if is_loaded {
            let group = self.group(path)?;
            let waiting = (0..3).map(|_| group.pressure().stall(Resource::Cpu));
            let tasks = waiting.chain([group.pressure().work()]).collect();
            loads.insert(path.into(), tasks);
        }
        Ok(())
    }

    fn pass(&self, time: Duration) {
        self.clock.run(self.hierarchy.engine(), time);
    }

    fn time(&self) -> Duration {
        self.clock.monotonic()
    }

    fn triggers(&self) -> usize {
        self.accounts.0.lock().unwrap().iter().map(kernfs_psi::Group::triggers).sum()
    }

    fn attribute(&self) -> Sys<Attribute> {
        let name = format!("attribute{}", self.count.fetch_add(1, SeqCst));
        let made = self.hierarchy.root().make_child(&name);
        made.and_then(|group| group.make_child("child")).map_err(Errno::raw)?;
        let attribute = Attribute { path: format!("/{name}/child/memory.events") };
        self.set_present(&attribute, true)?;
        Ok(attribute)
    }

    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        let group = attribute.path.strip_suffix("/child/memory.events").ok_or(errno::EINVAL)?;
        // As clients do it, for that is answered when the files are at rest.
        let client = self.tree().client(Caller::OWNER);
        let control = format!("{group}/cgroup.subtree_control");
        let control = client.open(control, OpenFlags::WRITE).map_err(Errno::raw)?;
        let switch = if is_present { b"+memory" } else { b"-memory" };
        control.write(switch).map(drop).map_err(Errno::raw)
    }
}

/// A clock that dates files by the time that everybody has, and stands otherwise.
struct Dated(VirtualClock);

impl Clock for Dated {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// What is accounted of all groups, removed ones too.
#[derive(Default)]
struct Accounts(Mutex<Vec<kernfs_psi::Group>>);

impl Observer for Accounts {
    fn made(&self, group: &Group) {
        self.0.lock().unwrap().push(group.pressure().clone());
    }

    fn removed(&self, _: &Group) {}
}
