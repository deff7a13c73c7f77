//! What happens to the hierarchy: each change of the rules, with what it does to files and
//! processes.
//!
//! Two locks. The *turn* (`cgroup_mutex`) is taken by everything that changes groups, controllers
//! or membership, for as long as that takes; severing happens under it, and waiting for the drain
//! does not. The lock of the *rules* is innermost, and is held for a look or a change alone. Wakers
//! may run under the turn, never under the rules: one that comes back for the turn gets EDEADLK.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use kernfs::{
    Access, Attr, Caller, Clock, Dir, Draining, Errno, File, FileOptions, Mode, SetAttr, Tree,
};
use kernfs_psi::{Engine, Resource, Share, Stall, pressure_file};
use rustix::process::Signal;

use crate::controllers::{Controllers, Switches};
use crate::files::{ControlFile, FILES};
use crate::group::{Group, Observer};
use crate::parse::Limit;
use crate::process::{self, CpuTime, Process};
use crate::rules::{Files, Id, Info, News, Node, Rules};
use crate::watch::Watch;

/// Whether freezing and killing reach real processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processes {
    /// They do not: a frozen group says that it is, a killed one loses its members, and the
    /// processes themselves notice nothing.
    #[default]
    Track,
    /// They do: members are stopped by SIGSTOP, go on by SIGCONT, and are killed by SIGKILL.
    ///
    /// Unlike a frozen one, a stopped process is seen as such by its parent, and anybody can let it
    /// go on. The process that serves the hierarchy is spared.
    Act,
}

/// The hierarchy behind its handles and files.
pub(crate) struct Core {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<dyn Clock>,
    processes: Processes,
    tree: OnceLock<Weak<Tree>>,
    turn: Turn,
    rules: Mutex<Rules>,
    watch: Watch,
    observers: Mutex<Vec<Arc<dyn Observer>>>,
}

/// Which groups a removal is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// One without members and groups below, as for rmdir(2).
    Empty,
    /// One with all that is in it.
    Whole,
}

/// Who makes a group, and how.
pub(crate) struct Maker {
    pub(crate) mode: Mode,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Core {
    pub(crate) fn new(
        engine: Engine,
        clock: Arc<dyn Clock>,
        processes: Processes,
        offered: Controllers,
    ) -> std::io::Result<Self> {
        let root = Info {
            id: kernfs::ROOT_INO,
            name: Box::default(),
            parent: None,
            pressure: engine.root().clone(),
        };
        let root = Node::new(Arc::new(root), None, Files::default());
        Ok(Self {
            engine,
            clock,
            processes,
            tree: OnceLock::new(),
            turn: Turn::default(),
            rules: Mutex::new(Rules::new(offered, root)),
            watch: Watch::new()?,
            observers: Mutex::default(),
        })
    }

    /// Gives the tree to the hierarchy, and the root its files.
    pub(crate) fn begin(self: &Arc<Self>, tree: &Arc<Tree>) -> Result<(), Errno> {
        // Set once: there is one tree for each.
        let _ = self.tree.set(Arc::downgrade(tree));
        let root = self.rules().get(kernfs::ROOT_INO).map(|node| Arc::clone(&node.info));
        let root = root.ok_or(Errno::ENODEV)?;
        let owner = Maker { mode: ROOT_MODE, uid: 0, gid: 0 };
        let files = self.add_files(tree.root(), &root, Controllers::empty(), &owner)?;
        if let Some(node) = self.rules().get_mut(root.id) {
            node.files = files;
        }
        Ok(())
    }

    /// Lets go of everything, so that nothing here refers to itself any more.
    ///
    /// Without a root, whatever comes after it finds its group gone.
    pub(crate) fn end(&self) {
        let mut news = News::default();
        // A waker or observer that drops the hierarchy has the turn.
        let turn = self.turn();
        let groups = {
            let mut rules = self.rules();
            let root = rules.root;
            for process in rules.processes_below(root) {
                rules.leave(process.pid(), &mut news);
            }
            let mut all = rules.subtree(root);
            all.reverse();
            all.into_iter().filter_map(|id| rules.remove(id)).collect::<Vec<_>>()
        };
        drop(turn);
        self.tell(news);
        drop(groups);
        let observers = std::mem::take(&mut *crate::lock(&self.observers));
        drop(observers);
        self.watch.stop();
    }

    /// Looks at the rules, or changes them; nothing else is done meanwhile.
    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        crate::lock(&self.rules)
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn turn(&self) -> Result<Held<'_>, Errno> {
        self.turn.take()
    }

    /// Tells everybody of a change; no lock of the rules is held.
    fn tell(&self, mut news: News) {
        for process in news.left.drain(..) {
            self.watch.remove(&process);
        }
        if self.processes == Processes::Act {
            news.stop.drain(..).for_each(|process| process.signal(Signal::STOP));
            news.go_on.drain(..).for_each(|process| process.signal(Signal::CONT));
        }
        news.tell();
    }

    /// Sees all exits that have happened.
    ///
    /// Asked for before an answer that depends on it: whoever has waited for a process finds its
    /// group empty, as with the kernel.
    pub(crate) fn settle(&self) {
        while self.rules().has_members() {
            let exited = self.watch.exited();
            let known = exited.iter().filter(|&&token| self.exited(token)).count();
            if known == 0 {
                return;
            }
        }
    }

    /// Takes a process that has exited out of its group; tells whether it was a member.
    fn exited(&self, token: u64) -> bool {
        let Some(process) = self.rules().process_of(token) else {
            return false;
        };
        // While nobody has waited for it, its time can still be asked for.
        let time = CpuTime::of(process.pid());
        let mut news = News::default();
        {
            let mut rules = self.rules();
            if let Some(time) = time {
                rules.count_time(process.pid(), time);
            }
            rules.exit(token, &mut news);
        }
        self.tell(news);
        true
    }

    fn tree(&self) -> Result<Arc<Tree>, Errno> {
        self.tree.get().and_then(Weak::upgrade).ok_or(Errno::ENODEV)
    }

    /// Returns the attributes of a directory or file.
    fn attr(&self, id: Id) -> Result<Attr, Errno> {
        Ok(self.tree()?.client(Caller::OWNER).by_id(id)?.attr())
    }
}

/// Making and removing.
impl Core {
    /// Makes a group (`cgroup_mkdir`).
    ///
    /// # Errors
    ///
    /// EINVAL: a newline in the name, or it is none. ENODEV: the parent is gone. EAGAIN: a limit
    /// above is reached. EEXIST, ENAMETOOLONG: as for the directory.
    pub(crate) fn make(
        self: &Arc<Self>,
        parent: Id,
        name: &[u8],
        mut maker: Maker,
    ) -> Result<Arc<Info>, Errno> {
        // It would make /proc/PID/cgroup unreadable.
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        let turn = self.turn()?;
        let tree = self.tree()?;
        let (above, into, controllers) = {
            let rules = self.rules();
            let node = rules.get(parent).ok_or(Errno::ENODEV)?;
            // Nobody else makes one now; a file of the name is found when it is attached.
            if node.children.contains_key(name) {
                return Err(Errno::EEXIST);
            }
            rules.check_limits(parent)?;
            (Arc::clone(&node.info), node.dir.clone(), node.subtree_control)
        };
        let attr = self.attr(parent)?;
        if attr.mode.bits() & S_ISGID != 0 {
            maker.gid = attr.gid;
            maker.mode = Mode::new(maker.mode.bits() | S_ISGID);
        }
        let dir = tree.detached_dir(maker.mode);
        let (uid, gid) = (Some(maker.uid), Some(maker.gid));
        dir.set_attr(&SetAttr { uid, gid, ..SetAttr::default() });
        let info = Arc::new(Info {
            id: dir.ino(),
            name: name.into(),
            pressure: above.pressure.child(),
            parent: Some(above),
        });
        let files = self.add_files(&dir, &info, controllers, &maker)?;
        let dir = Arc::new(dir);
        let node = Node::new(Arc::clone(&info), Some(Arc::clone(&dir)), files);
        // Known first: whoever finds a file of it finds the group.
        self.rules().insert(node, self.now());
        let attached = into.as_deref().unwrap_or(tree.root()).attach(name, &dir);
        if let Err(errno) = attached {
            let node = self.rules().remove(info.id);
            drop(node);
            return Err(errno);
        }
        let group = Group::new(self, &info);
        self.observe_all(|observer| observer.made(&group));
        drop(turn);
        Ok(info)
    }

    /// Removes a group (`cgroup_rmdir`, or by force); everyone who sleeps on its files is awake.
    ///
    /// # Errors
    ///
    /// ENODEV: it is gone already. EBUSY: it has members or groups below, or it is the root.
    pub(crate) fn remove(self: &Arc<Self>, id: Id, what: Removed) -> Result<Draining, Errno> {
        self.settle();
        let turn = self.turn()?;
        let mut news = News::default();
        let gone = {
            let mut rules = self.rules();
            let node = rules.get(id).ok_or(Errno::ENODEV)?;
            if node.info.parent.is_none() {
                return Err(Errno::EBUSY);
            }
            let is_in_use = node.is_populated() || !node.children.is_empty();
            if what == Removed::Empty && is_in_use {
                return Err(Errno::EBUSY);
            }
            for process in rules.processes_below(id) {
                rules.leave(process.pid(), &mut news);
            }
            let mut all = rules.subtree(id);
            all.reverse();
            all.into_iter().filter_map(|id| rules.remove(id)).collect::<Vec<_>>()
        };
        let top = gone.last().and_then(|node| node.dir.as_ref()).ok_or(Errno::ENODEV)?;
        let draining = top.sever_shared();
        for node in &gone {
            end_shares(&node.info);
            let group = Group::new(self, &node.info);
            self.observe_all(|observer| observer.removed(&group));
        }
        drop(turn);
        self.tell(news);
        // Handles of what is severed already; dropped where no lock is held.
        drop(gone);
        Ok(draining)
    }

    /// Lets somebody follow the groups, from those that there are on.
    pub(crate) fn observe(self: &Arc<Self>, observer: Arc<dyn Observer>) -> Result<(), Errno> {
        let _turn = self.turn()?;
        let all: Vec<_> = {
            let rules = self.rules();
            let all = rules.subtree(rules.root).into_iter();
            all.filter_map(|id| rules.get(id)).map(|node| Arc::clone(&node.info)).collect()
        };
        for info in all {
            observer.made(&Group::new(self, &info));
        }
        crate::lock(&self.observers).push(observer);
        Ok(())
    }

    fn observe_all(&self, tell: impl Fn(&dyn Observer)) {
        let observers = crate::lock(&self.observers).clone();
        observers.iter().for_each(|observer| tell(&**observer));
    }

    /// Adds the files that a group has from the beginning (`css_populate_dir`).
    fn add_files(
        self: &Arc<Self>,
        dir: &Dir,
        info: &Arc<Info>,
        controllers: Controllers,
        maker: &Maker,
    ) -> Result<Files, Errno> {
        let mut files = Files::default();
        self.add_control_files(dir, info, Controllers::empty(), maker, &mut files)?;
        let mut pressure = Vec::new();
        for resource in [Resource::Io, Resource::Memory, Resource::Cpu] {
            let driver = pressure_file(&info.pressure, resource);
            let options = driver.options().owner(maker.uid, maker.gid);
            pressure.push(dir.add_file(format!("{resource}.pressure"), options, driver)?);
        }
        files.pressure = pressure.into();
        for (_, one) in controllers.names() {
            self.add_control_files(dir, info, one, maker, &mut files)?;
        }
        Ok(files)
    }

    /// Adds the files of a controller, or those that belong to none.
    fn add_control_files(
        self: &Arc<Self>,
        dir: &Dir,
        info: &Arc<Info>,
        controller: Controllers,
        maker: &Maker,
        files: &mut Files,
    ) -> Result<(), Errno> {
        let is_root = info.parent.is_none();
        for kind in FILES.iter().filter(|kind| kind.is_in(is_root, controller)) {
            let options = FileOptions::new(kind.mode()).owner(maker.uid, maker.gid);
            let driver = ControlFile::new(self, info, kind);
            let file = dir.add_file(kind.name, options, driver)?;
            match kind.name {
                "cgroup.events" => files.events = Some(file.notifier()),
                "memory.events" => files.memory_events = Some(file.notifier()),
                "memory.events.local" => files.memory_events_local = Some(file.notifier()),
                _ => {}
            }
            if controller.is_empty() {
                file.keep();
            } else {
                files.of_controllers.push((controller, file));
            }
        }
        Ok(())
    }
}

/// The mode of the root directory, in which root makes directories all the same.
pub(crate) const ROOT_MODE: Mode = Mode::new(0o555);

const S_ISGID: u16 = 0o2000;

/// Ends what a group is said to stall: above, it does not count any more.
fn end_shares(info: &Info) {
    for resource in [Resource::Io, Resource::Memory, Resource::Cpu, Resource::Irq] {
        for stall in [Stall::Some, Stall::Full] {
            info.pressure.set_share(resource, stall, Share::NONE);
        }
    }
}

/// Switching.
impl Core {
    /// Switches controllers of the groups below on and off (`cgroup_subtree_control_write`).
    ///
    /// Returns what is to be waited for: files that went away.
    ///
    /// # Errors
    ///
    /// ENODEV: the group is gone. ENOENT, EBUSY, EOPNOTSUPP: against the rules. EEXIST: a group below
    /// has a child that is named like a file of the controller.
    pub(crate) fn switch_controllers(
        self: &Arc<Self>,
        id: Id,
        switches: Switches,
        caller: &Caller,
    ) -> Result<Option<Draining>, Errno> {
        self.settle();
        let _turn = self.turn()?;
        let (on, off, children) = {
            let rules = self.rules();
            let (on, off) = rules.vet_switches(id, switches)?;
            let node = rules.get(id).ok_or(Errno::ENODEV)?;
            let children = node.children.values().filter_map(|child| rules.get(*child));
            let dir = |child: &Node| Some((Arc::clone(&child.info), child.dir.clone()?));
            (on, off, children.filter_map(dir).collect::<Vec<_>>())
        };
        let maker = Maker { mode: Mode::RW, uid: caller.uid, gid: caller.gid };
        let mut added = Vec::new();
        for (info, dir) in &children {
            let mut files = Files::default();
            for (_, one) in on.names() {
                // What was added so far goes with the handles.
                self.add_control_files(dir, info, one, &maker, &mut files)?;
            }
            added.push(files);
        }
        let mut gone = Vec::new();
        {
            let mut rules = self.rules();
            if let Some(node) = rules.get_mut(id) {
                node.subtree_control = (node.subtree_control | on) - off;
            }
            for ((info, _), files) in children.iter().zip(added) {
                let Some(node) = rules.get_mut(info.id) else { continue };
                gone.extend(node.switch_files(files, off));
            }
        }
        let drainings = gone.into_iter().map(|file| file.sever().detach());
        Ok(drainings.reduce(Draining::and))
    }

    /// Hides or shows the pressure files of a group (`cgroup_pressure_write`).
    ///
    /// Returns what is to be waited for: files that are hidden.
    ///
    /// # Errors
    ///
    /// ENOENT: the group is gone.
    pub(crate) fn switch_pressure(&self, id: Id, on: bool) -> Result<Option<Draining>, Errno> {
        let _turn = self.turn()?;
        let (files, info) = {
            let mut rules = self.rules();
            let node = rules.get_mut(id).ok_or(Errno::ENOENT)?;
            if std::mem::replace(&mut node.is_accounted, on) == on {
                return Ok(None);
            }
            (Arc::clone(&node.files.pressure), Arc::clone(&node.info))
        };
        if on {
            info.pressure.enable();
            files.iter().for_each(File::show);
            return Ok(None);
        }
        let drainings: Vec<Draining> = files.iter().map(File::hide).collect();
        info.pressure.disable();
        Ok(drainings.into_iter().reduce(Draining::and))
    }

    /// Freezes or thaws a group (`cgroup_freeze_write`).
    ///
    /// # Errors
    ///
    /// ENOENT: the group is gone.
    pub(crate) fn freeze(&self, id: Id, freeze: bool) -> Result<(), Errno> {
        let turn = self.turn()?;
        let mut news = News::default();
        {
            let mut rules = self.rules();
            rules.get(id).ok_or(Errno::ENOENT)?;
            rules.set_freeze(id, freeze, self.now(), &mut news);
        }
        drop(turn);
        self.tell(news);
        Ok(())
    }

    /// Kills all members of a group and below (`cgroup_kill_write`).
    ///
    /// # Errors
    ///
    /// ENOENT: the group is gone.
    pub(crate) fn kill(&self, id: Id) -> Result<(), Errno> {
        let turn = self.turn()?;
        let mut news = News::default();
        let processes = {
            let mut rules = self.rules();
            rules.get(id).ok_or(Errno::ENOENT)?;
            let processes = rules.processes_below(id);
            if self.processes == Processes::Track {
                processes.iter().for_each(|process| rules.leave(process.pid(), &mut news));
            }
            processes
        };
        drop(turn);
        if self.processes == Processes::Act {
            processes.iter().for_each(|process| process.signal(Signal::KILL));
        }
        self.tell(news);
        Ok(())
    }

    /// Sets a limit, whatever it is.
    ///
    /// # Errors
    ///
    /// ENOENT: the group is gone.
    pub(crate) fn set(&self, id: Id, set: impl FnOnce(&mut Node)) -> Result<(), Errno> {
        let _turn = self.turn()?;
        set(self.rules().get_mut(id).ok_or(Errno::ENOENT)?);
        Ok(())
    }
}

impl Node {
    /// Takes files of controllers in, and gives those of others out.
    fn switch_files(&mut self, added: Files, off: Controllers) -> Vec<File<ControlFile>> {
        let had_memory = added.memory_events.is_some();
        if had_memory {
            self.files.memory_events = added.memory_events;
            self.files.memory_events_local = added.memory_events_local;
        }
        let before = std::mem::take(&mut self.files.of_controllers);
        let (gone, rest): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|(controller, _)| off.contains(*controller));
        self.files.of_controllers = rest;
        self.files.of_controllers.extend(added.of_controllers);
        // A controller that comes back begins anew.
        if off.contains(Controllers::MEMORY) {
            self.memory.reset();
        }
        if off.contains(Controllers::PIDS) {
            self.pids_max = Limit::Max;
        }
        gone.into_iter().map(|(_, file)| file).collect()
    }
}

/// Members.
impl Core {
    /// Puts a process into a group, on behalf of who opened the file (`__cgroup_procs_write`).
    ///
    /// # Errors
    ///
    /// ENODEV: the group is gone. EACCES: the opener may not move processes between the two groups.
    /// EOPNOTSUPP, EBUSY: against the rules. Else as for [`Process::find`].
    pub(crate) fn attach(
        self: &Arc<Self>,
        id: Id,
        find: impl FnOnce() -> Result<Process, Errno>,
        opener: &Caller,
    ) -> Result<(), Errno> {
        self.settle();
        let turn = self.turn()?;
        self.rules().get(id).ok_or(Errno::ENODEV)?;
        let process = Arc::new(find()?);
        let from = self.rules().group_of(process.pid());
        self.check_migration(from, id, opener)?;
        self.rules().vet_join(id)?;
        // A process that has exited is a member of nothing, and has nothing to be moved.
        if process.has_exited() {
            return Ok(());
        }
        let counted = CpuTime::of(process.pid()).unwrap_or_default();
        let token = self.watch(id, &process)?;
        let mut news = News::default();
        self.rules().join(id, &process, counted, token, &mut news);
        drop(turn);
        self.tell(news);
        Ok(())
    }

    /// Watches for the exit of a process that is no member yet, and returns the token of that.
    fn watch(self: &Arc<Self>, id: Id, process: &Process) -> Result<Option<u64>, Errno> {
        let token = {
            let mut rules = self.rules();
            if id == rules.root || rules.is_member(process.pid()) {
                return Ok(None);
            }
            rules.next_token()
        };
        let core = Arc::downgrade(self);
        let exited = move |token| {
            if let Some(core) = core.upgrade() {
                core.exited(token);
            }
        };
        self.watch.add(process, token, exited)?;
        Ok(Some(token))
    }

    /// Lets only those move a process who may write `cgroup.procs` of the nearest group above both
    /// (`cgroup_procs_write_permission`).
    fn check_migration(&self, from: Id, to: Id, opener: &Caller) -> Result<(), Errno> {
        let common = {
            let rules = self.rules();
            let from = Arc::clone(&rules.get(from).ok_or(Errno::ENODEV)?.info);
            let to = Arc::clone(&rules.get(to).ok_or(Errno::ENODEV)?.info);
            let above: Vec<Id> = to.and_above().map(|info| info.id).collect();
            from.and_above().map(|info| info.id).find(|id| above.contains(id))
        };
        let tree = self.tree()?;
        let client = tree.client(Caller::OWNER);
        let dir = client.by_id(common.ok_or(Errno::ENODEV)?)?;
        let procs = dir.lookup(&Caller::OWNER, "cgroup.procs")?;
        procs.check_access(opener, Access::WRITE)
    }

    /// Returns the members of a group, in the order in which they joined; of the root, the
    /// processes that are in no other.
    pub(crate) fn members(&self, id: Id) -> Result<Vec<u32>, Errno> {
        self.settle();
        let rules = self.rules();
        let node = rules.get(id).ok_or(Errno::ENODEV)?;
        if id != rules.root {
            return Ok(node.members().collect());
        }
        drop(rules);
        let all = process::all();
        let rules = self.rules();
        Ok(all.into_iter().filter(|&pid| !rules.is_member(pid)).collect())
    }

    /// Returns the processes in a group and all below it.
    pub(crate) fn members_below(&self, id: Id) -> Vec<u32> {
        self.settle();
        self.rules().processes_below(id).iter().map(|process| process.pid()).collect()
    }

    /// Returns the time of the processor that a group and all below it have spent.
    pub(crate) fn time(&self, id: Id) -> Result<CpuTime, Errno> {
        if id == self.rules().root {
            return Ok(CpuTime::of_all());
        }
        for pid in self.members_below(id) {
            if let Some(time) = CpuTime::of(pid) {
                self.rules().count_time(pid, time);
            }
        }
        Ok(self.rules().time(id))
    }
}

/// A lock whose holder gets EDEADLK for it, instead of waiting for itself.
#[derive(Default)]
struct Turn {
    lock: Mutex<()>,
    holder: Mutex<Option<ThreadId>>,
}

impl Turn {
    fn take(&self) -> Result<Held<'_>, Errno> {
        let this = thread::current().id();
        if *crate::lock(&self.holder) == Some(this) {
            return Err(Errno::EDEADLK);
        }
        let guard = crate::lock(&self.lock);
        *crate::lock(&self.holder) = Some(this);
        Ok(Held { turn: self, _guard: guard })
    }
}

/// The turn, until dropped.
pub(crate) struct Held<'a> {
    turn: &'a Turn,
    _guard: MutexGuard<'a, ()>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *crate::lock(&self.turn.holder) = None;
    }
}
