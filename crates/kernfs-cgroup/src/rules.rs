//! The rules of the hierarchy, without files, processes or time: which groups there are, who is a
//! member of which, what is allowed, and what changes when something does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kernfs::{Dir, Errno, File, Notifier};
use kernfs_psi::{Group as Psi, PressureFile};

use crate::controllers::{Controllers, Switches};
use crate::files::ControlFile;
use crate::memory::{Memory, Usage};
use crate::parse::Limit;
use crate::process::{CpuTime, Process};

/// Names a group: the inode number of its directory, which is never reused.
pub(crate) type Id = u64;

/// What never changes about a group, and what outlives it.
pub(crate) struct Info {
    pub(crate) id: Id,
    /// Empty for the root.
    pub(crate) name: Box<[u8]>,
    pub(crate) parent: Option<Arc<Self>>,
    pub(crate) pressure: Psi,
}

impl Info {
    /// Returns the group and all above it.
    pub(crate) fn and_above(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |info| info.parent.as_ref())
    }
}

/// The files of a group that somebody has to get at again.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) events: Option<Notifier>,
    pub(crate) memory_events: Option<Notifier>,
    pub(crate) memory_events_local: Option<Notifier>,
    pub(crate) pressure: Arc<[File<PressureFile>]>,
    pub(crate) of_controllers: Vec<(Controllers, File<ControlFile>)>,
}

/// A group that is alive (`struct cgroup`).
pub(crate) struct Node {
    pub(crate) info: Arc<Info>,
    /// `None` for the root, which the tree owns.
    pub(crate) dir: Option<Arc<Dir>>,
    pub(crate) files: Files,
    pub(crate) children: BTreeMap<Box<[u8]>, Id>,
    /// Members by the order in which they joined; of the root, none: it has who is nowhere else.
    members: BTreeMap<u64, u32>,
    pub(crate) subtree_control: Controllers,
    pub(crate) max_depth: Limit<i32>,
    pub(crate) max_descendants: Limit<i32>,
    descendants: i32,
    /// Children with members below them (`nr_populated_domain_children`).
    populated_children: usize,
    pub(crate) freeze: bool,
    thawed: Frozen,
    pub(crate) is_accounted: bool,
    pub(crate) memory: Memory,
    pub(crate) pids_max: Limit<i64>,
    /// Of members that left, and of groups below that are gone.
    cpu: CpuTime,
}

/// How long a group has been frozen.
#[derive(Clone, Copy, Debug, Default)]
struct Frozen {
    total: Duration,
    since: Option<Duration>,
}

impl Node {
    pub(crate) fn new(info: Arc<Info>, dir: Option<Arc<Dir>>, files: Files) -> Self {
        Self {
            info,
            dir,
            files,
            children: BTreeMap::new(),
            members: BTreeMap::new(),
            subtree_control: Controllers::empty(),
            max_depth: Limit::Max,
            max_descendants: Limit::Max,
            descendants: 0,
            populated_children: 0,
            freeze: false,
            thawed: Frozen::default(),
            is_accounted: true,
            memory: Memory::default(),
            pids_max: Limit::Max,
            cpu: CpuTime::default(),
        }
    }

    pub(crate) fn is_populated(&self) -> bool {
        self.populated_children > 0 || !self.members.is_empty()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = u32> + '_ {
        self.members.values().copied()
    }

    pub(crate) fn descendants(&self) -> i32 {
        self.descendants
    }

    fn parent(&self) -> Option<Id> {
        self.info.parent.as_ref().map(|parent| parent.id)
    }
}

/// A process that was put into a group.
struct Member {
    group: Id,
    /// When it joined, in the order of all that did.
    joined: u64,
    /// Names the watch for its exit.
    token: u64,
    process: Arc<Process>,
    /// Up to where its time is counted.
    counted: CpuTime,
}

/// Who has to be told of a change, once no lock is held: wakers run then.
#[derive(Default)]
#[must_use = "whoever waits is to be told"]
pub(crate) struct News {
    files: Vec<Notifier>,
    /// Processes that are to stop.
    pub(crate) stop: Vec<Arc<Process>>,
    /// Processes that are to go on.
    pub(crate) go_on: Vec<Arc<Process>>,
    /// Processes that are members of nothing any more, whose exit is of no interest.
    pub(crate) left: Vec<Arc<Process>>,
}

impl News {
    pub(crate) fn tell(self) {
        for file in self.files {
            file.notify();
        }
    }

    fn of(&mut self, file: Option<&Notifier>) {
        self.files.extend(file.cloned());
    }
}

/// All groups and members.
pub(crate) struct Rules {
    pub(crate) root: Id,
    pub(crate) offered: Controllers,
    groups: HashMap<Id, Node>,
    members: HashMap<u32, Member>,
    by_token: HashMap<u64, u32>,
    joined: u64,
}

impl Rules {
    pub(crate) fn new(offered: Controllers, root: Node) -> Self {
        let id = root.info.id;
        Self {
            root: id,
            offered,
            groups: HashMap::from([(id, root)]),
            members: HashMap::new(),
            by_token: HashMap::new(),
            joined: 0,
        }
    }

    /// Returns a group that is alive.
    pub(crate) fn get(&self, id: Id) -> Option<&Node> {
        self.groups.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Node> {
        self.groups.get_mut(&id)
    }

    /// Returns the groups below one and itself, parents first.
    pub(crate) fn subtree(&self, top: Id) -> Vec<Id> {
        let mut all = vec![top];
        let mut next = 0;
        while let Some(node) = all.get(next).and_then(|id| self.get(*id)) {
            all.extend(node.children.values());
            next += 1;
        }
        all.retain(|id| self.groups.contains_key(id));
        all
    }

    /// Finds a group by its path.
    pub(crate) fn find(&self, path: &[u8]) -> Option<Id> {
        let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.try_fold(self.root, |id, name| self.get(id)?.children.get(name).copied())
    }

    fn path_up(&self, id: Id) -> impl Iterator<Item = &Node> {
        std::iter::successors(self.get(id), |node| node.parent().and_then(|id| self.get(id)))
    }
}

/// Making and removing.
impl Rules {
    /// Refuses what a limit of a group above forbids (`cgroup_check_hierarchy_limits`).
    pub(crate) fn check_limits(&self, parent: Id) -> Result<(), Errno> {
        let reached = |limit: Limit<i32>, count: i32| match limit {
            Limit::Max => false,
            Limit::At(limit) => count >= limit,
        };
        let exceeds = self.path_up(parent).enumerate().any(|(level, node)| {
            reached(node.max_descendants, node.descendants)
                || reached(node.max_depth, level.try_into().unwrap_or(i32::MAX))
        });
        if exceeds { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    pub(crate) fn insert(&mut self, mut node: Node, now: Duration) {
        let (id, parent) = (node.info.id, node.parent());
        let is_frozen = parent.is_some_and(|parent| self.is_frozen(parent));
        node.thawed.since = is_frozen.then_some(now);
        if let Some(parent) = parent.and_then(|parent| self.groups.get_mut(&parent)) {
            parent.children.insert(node.info.name.clone(), id);
        }
        self.groups.insert(id, node);
        self.count_above(id, 1);
    }

    /// Takes a group out that is alone: without members or children.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Node> {
        self.count_above(id, -1);
        let node = self.groups.remove(&id)?;
        if let Some(parent) = node.parent().and_then(|parent| self.groups.get_mut(&parent)) {
            parent.children.remove(&node.info.name);
            parent.cpu += node.cpu;
        }
        Some(node)
    }

    fn count_above(&mut self, id: Id, change: i32) {
        let mut above = self.get(id).and_then(Node::parent);
        while let Some(node) = above.and_then(|id| self.groups.get_mut(&id)) {
            node.descendants += change;
            above = node.parent();
        }
    }
}

/// Controllers.
impl Rules {
    /// Returns the controllers that a group has (`cgroup_control`).
    pub(crate) fn controllers(&self, id: Id) -> Controllers {
        let Some(node) = self.get(id) else { return Controllers::empty() };
        match node.parent() {
            Some(parent) => {
                self.get(parent).map(|parent| parent.subtree_control).unwrap_or_default()
            }
            None => self.offered,
        }
    }

    /// Counts the groups at or below one that have a controller; those with files for it.
    pub(crate) fn count_with(&self, id: Id, controller: Controllers) -> usize {
        let has = |id: &Id| self.controllers(*id).contains(controller);
        if has(&id) { self.subtree(id).iter().filter(|id| has(id)).count() } else { 0 }
    }

    /// Tells what a change of `cgroup.subtree_control` comes to: what is really switched on and
    /// off (`cgroup_subtree_control_write`).
    ///
    /// # Errors
    ///
    /// ENOENT: the group does not have the controller. EBUSY: a child passes it on, or the group has
    /// members. EOPNOTSUPP: it is not a valid domain.
    pub(crate) fn vet_switches(
        &self,
        id: Id,
        switches: Switches,
    ) -> Result<(Controllers, Controllers), Errno> {
        let node = self.get(id).ok_or(Errno::ENODEV)?;
        let on = switches.on - node.subtree_control;
        let off = switches.off & node.subtree_control;
        if switches.wants_unknown || !self.controllers(id).contains(on) {
            return Err(Errno::ENOENT);
        }
        let children = node.children.values().filter_map(|child| self.get(*child));
        if children.into_iter().any(|child| child.subtree_control.intersects(off)) {
            return Err(Errno::EBUSY);
        }
        self.vet_enable(node, on)?;
        Ok((on, off))
    }

    /// (`cgroup_vet_subtree_control_enable`)
    fn vet_enable(&self, node: &Node, on: Controllers) -> Result<(), Errno> {
        if on.is_empty() {
            return Ok(());
        }
        if !self.is_valid_domain(node) {
            return Err(Errno::EOPNOTSUPP);
        }
        if is_mixable(node) {
            return Ok(());
        }
        if !(on - Controllers::THREADED).is_empty() {
            if is_thread_root(node) {
                return Err(Errno::EOPNOTSUPP);
            }
        } else if can_be_thread_root(node) {
            return Ok(());
        }
        // So that the children do not compete with members of the group itself.
        if node.members.is_empty() { Ok(()) } else { Err(Errno::EBUSY) }
    }

    /// Tells whether members can be put into a group (`cgroup_migrate_vet_dst`).
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP: it is not a valid domain. EBUSY: it passes controllers on (the rule that only
    /// leaves have members).
    fn vet_member(&self, node: &Node) -> Result<(), Errno> {
        if !self.is_valid_domain(node) {
            return Err(Errno::EOPNOTSUPP);
        }
        if can_be_thread_root(node) || node.subtree_control.is_empty() {
            return Ok(());
        }
        Err(Errno::EBUSY)
    }

    /// Returns what `cgroup.type` says.
    pub(crate) fn type_of(&self, id: Id) -> Option<&'static str> {
        let node = self.get(id)?;
        Some(if !self.is_valid_domain(node) {
            "domain invalid"
        } else if is_thread_root(node) {
            "domain threaded"
        } else {
            "domain"
        })
    }

    /// (`cgroup_is_valid_domain`)
    fn is_valid_domain(&self, node: &Node) -> bool {
        let is_in_the_way = |above: &Node| !is_mixable(above) && is_thread_root(above);
        !self.path_up(node.info.id).skip(1).any(is_in_the_way)
    }
}

/// The root may have members, domains and threads below it side by side (`cgroup_is_mixable`).
fn is_mixable(node: &Node) -> bool {
    node.info.parent.is_none()
}

/// (`cgroup_is_thread_root`)
fn is_thread_root(node: &Node) -> bool {
    !node.members.is_empty() && node.subtree_control.intersects(Controllers::THREADED)
}

/// (`cgroup_can_be_thread_root`)
fn can_be_thread_root(node: &Node) -> bool {
    is_mixable(node)
        || (node.populated_children == 0 && Controllers::THREADED.contains(node.subtree_control))
}

/// Members.
impl Rules {
    pub(crate) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    /// Returns the group of a process.
    pub(crate) fn group_of(&self, pid: u32) -> Id {
        self.members.get(&pid).map_or(self.root, |member| member.group)
    }

    pub(crate) fn is_member(&self, pid: u32) -> bool {
        self.members.contains_key(&pid)
    }

    /// Tells whether a process may be put into a group.
    ///
    /// # Errors
    ///
    /// ENODEV: the group is gone. Else as for the rules: EOPNOTSUPP, EBUSY.
    pub(crate) fn vet_join(&self, id: Id) -> Result<(), Errno> {
        self.vet_member(self.get(id).ok_or(Errno::ENODEV)?)
    }

    /// Returns a token for the watch of a process that is to join.
    pub(crate) fn next_token(&mut self) -> u64 {
        self.joined += 1;
        self.joined
    }

    /// Puts a process into a group (`cgroup_attach_task`); to the root means out of all others.
    ///
    /// A process that was no member has a token; without one, it has exited meanwhile.
    pub(crate) fn join(
        &mut self,
        id: Id,
        process: &Arc<Process>,
        counted: CpuTime,
        token: Option<u64>,
        news: &mut News,
    ) {
        let pid = process.pid();
        let (from, was_frozen) = (self.group_of(pid), self.is_frozen(self.group_of(pid)));
        if from == id {
            return;
        }
        self.count_time(pid, counted);
        let member = self.take(pid, news).or_else(|| {
            let process = Arc::clone(process);
            Some(Member { group: id, joined: 0, token: token?, process, counted })
        });
        let Some(mut member) = member else { return };
        if self.is_frozen(id) != was_frozen {
            let list = if was_frozen { &mut news.go_on } else { &mut news.stop };
            list.push(Arc::clone(&member.process));
        }
        if id == self.root {
            news.left.push(member.process);
            return;
        }
        self.joined += 1;
        member.group = id;
        member.joined = self.joined;
        let joined = member.joined;
        self.by_token.insert(member.token, pid);
        self.members.insert(pid, member);
        self.change_members(id, news, |members| members.insert(joined, pid));
    }

    /// Lets the process of a token leave: it has exited.
    pub(crate) fn exit(&mut self, token: u64, news: &mut News) {
        if let Some(pid) = self.by_token.get(&token).copied() {
            let member = self.take(pid, news);
            news.left.extend(member.map(|member| member.process));
        }
    }

    /// Lets a process leave all groups.
    pub(crate) fn leave(&mut self, pid: u32, news: &mut News) {
        let was_frozen = self.is_frozen(self.group_of(pid));
        if let Some(member) = self.take(pid, news) {
            news.go_on.extend(was_frozen.then(|| Arc::clone(&member.process)));
            news.left.push(member.process);
        }
    }

    fn take(&mut self, pid: u32, news: &mut News) -> Option<Member> {
        let member = self.members.remove(&pid)?;
        self.by_token.remove(&member.token);
        self.change_members(member.group, news, |members| members.remove(&member.joined));
        Some(member)
    }

    /// Changes who is in a group, and follows that up the tree (`cgroup_update_populated`).
    fn change_members(
        &mut self,
        id: Id,
        news: &mut News,
        change: impl FnOnce(&mut BTreeMap<u64, u32>) -> Option<u32>,
    ) {
        let Some(node) = self.groups.get_mut(&id) else { return };
        let was = node.is_populated();
        change(&mut node.members);
        let is = node.is_populated();
        if was == is {
            return;
        }
        news.of(node.files.events.as_ref());
        let mut above = node.parent();
        while let Some(node) = above.and_then(|id| self.groups.get_mut(&id)) {
            let was = node.is_populated();
            node.populated_children = if is {
                node.populated_children + 1
            } else {
                node.populated_children.saturating_sub(1)
            };
            if was == node.is_populated() {
                return;
            }
            news.of(node.files.events.as_ref());
            above = node.parent();
        }
    }

    /// Returns the processes in a group and all below it.
    pub(crate) fn processes_below(&self, id: Id) -> Vec<Arc<Process>> {
        let pids = self.subtree(id).into_iter().filter_map(|id| self.get(id));
        let pids = pids.flat_map(Node::members);
        let members = pids.filter_map(|pid| self.members.get(&pid));
        members.map(|member| Arc::clone(&member.process)).collect()
    }

    pub(crate) fn process_of(&self, token: u64) -> Option<Arc<Process>> {
        let member = self.members.get(self.by_token.get(&token)?)?;
        Some(Arc::clone(&member.process))
    }
}

/// Freezing.
impl Rules {
    /// Tells whether a group or one above it is frozen (`e_freeze`); here that takes no time.
    pub(crate) fn is_frozen(&self, id: Id) -> bool {
        self.path_up(id).any(|node| node.freeze)
    }

    /// Returns how long a group has been frozen in all.
    pub(crate) fn frozen_for(&self, id: Id, now: Duration) -> Duration {
        self.get(id).map_or(Duration::ZERO, |node| {
            let since = node.thawed.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            node.thawed.total + since
        })
    }

    /// Freezes or thaws a group (`cgroup_freeze`).
    pub(crate) fn set_freeze(&mut self, id: Id, freeze: bool, now: Duration, news: &mut News) {
        let was = self.is_frozen(id);
        let Some(node) = self.groups.get_mut(&id) else { return };
        node.freeze = freeze;
        if was == self.is_frozen(id) {
            return;
        }
        let mut left = vec![id];
        while let Some(id) = left.pop() {
            let Some(node) = self.groups.get_mut(&id) else { continue };
            node.thawed = match (freeze, node.thawed) {
                (true, before) => Frozen { since: Some(now), ..before },
                (false, Frozen { total, since }) => {
                    let passed = since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
                    Frozen { total: total + passed, since: None }
                }
            };
            news.of(node.files.events.as_ref());
            let members = node.members.values().filter_map(|pid| self.members.get(pid));
            let processes = members.map(|member| Arc::clone(&member.process));
            (if freeze { &mut news.stop } else { &mut news.go_on }).extend(processes);
            // What is frozen by itself stays as it is.
            let children: Vec<Id> = node.children.values().copied().collect();
            let changes = |id: &Id| self.get(*id).is_some_and(|child| !child.freeze);
            left.extend(children.into_iter().filter(changes));
        }
    }
}

/// Time of the processor.
impl Rules {
    /// Counts the time of a process up to `until` for its group.
    pub(crate) fn count_time(&mut self, pid: u32, until: CpuTime) {
        if let Some(member) = self.members.get_mut(&pid) {
            let spent = until.since(member.counted);
            member.counted = until;
            if let Some(node) = self.groups.get_mut(&member.group) {
                node.cpu += spent;
            }
        }
    }

    /// Returns the time that was counted for a group and all below it.
    pub(crate) fn time(&self, id: Id) -> CpuTime {
        let nodes = self.subtree(id).into_iter().filter_map(|id| self.get(id));
        nodes.fold(CpuTime::default(), |mut sum, node| {
            sum += node.cpu;
            sum
        })
    }
}

/// Memory.
impl Rules {
    /// Returns what a group and all below it use, in bytes.
    pub(crate) fn memory_current(&self, id: Id) -> u64 {
        let nodes = self.subtree(id).into_iter().filter_map(|id| self.get(id));
        nodes.fold(0, |sum: u64, node| sum.saturating_add(node.memory.usage.bytes()))
    }

    pub(crate) fn set_memory_usage(&mut self, id: Id, usage: Usage) -> Result<(), Errno> {
        self.groups.get_mut(&id).ok_or(Errno::ENODEV)?.memory.usage = usage;
        Ok(())
    }

    /// Changes a count of `memory.events.local`, and by as much that of `memory.events` here and
    /// above (`memcg_memory_event`).
    pub(crate) fn count_memory_event(
        &mut self,
        id: Id,
        event: usize,
        change: impl FnOnce(u64) -> u64,
        news: &mut News,
    ) -> Result<(), Errno> {
        let node = self.groups.get_mut(&id).ok_or(Errno::ENODEV)?;
        let local = &mut node.memory.local_events[event];
        let before = std::mem::replace(local, 0);
        let after = change(before);
        node.memory.local_events[event] = after;
        news.of(node.files.memory_events_local.as_ref());
        let mut at = Some(id);
        while let Some(node) = at.and_then(|id| self.groups.get_mut(&id)) {
            let count = &mut node.memory.events[event];
            *count = count.saturating_add(after).saturating_sub(before);
            news.of(node.files.memory_events.as_ref());
            at = node.parent();
        }
        Ok(())
    }
}
