//! The contract in plain sequential terms, and a tree that does the same, step by step.
//!
//! [`Model`] is the contract; [`Real`] does the same with a tree. Operations that stop inside a
//! driver run on threads of their own, which are always waited for, so that each step is exact.
//! Steps come from proptest (`model.rs`), and from a fuzzer (`fuzz/fuzz_targets/model.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;

#[cfg(fuzzing)]
use arbitrary::Arbitrary;
use kernfs::{
    Caller, Child, Client, Dir, DirOp, DirOps, Draining, Errno, Events, File, FileOps, Inode, Mode,
    Name, OpenFile, OpenFlags, OpenOp, ReadOp, Tree, Waiter, WriteOp,
};

/// Takes the steps in both worlds, compares what can be seen after each, and lets go of all.
///
/// # Panics
///
/// The tree did something else than the model.
pub(crate) fn compare(steps: &[Step]) {
    let mut both = Both { model: Model::new(), real: Real::new() };
    for step in steps {
        let (model, real) = both.take(step);
        assert_eq!(real, model, "{step:?}");
        both.compare();
    }
    both.end();
}

// ---- what can be done

/// A step.
#[derive(Clone, Debug)]
#[cfg_attr(fuzzing, derive(Arbitrary))]
pub(crate) enum Step {
    AddFile(Pick, Pick),
    AddDir(Pick, Pick),
    MakeDetached,
    Attach { dir: Pick, to: Pick, name: Pick },
    Rename { node: Pick, to: Pick, name: Pick },
    Hide(Pick),
    Show(Pick),
    Notify(Pick),
    Sever(Pick, Way),
    Mkdir(Pick, Pick),
    Rmdir(Pick, Pick),
    Open(Pick),
    Reopen(Pick),
    Read { open: Pick, at: At, len: u8 },
    Write(Pick, u8),
    Enter(Pick),
    Leave(Pick),
    Poll(Pick),
    Wait(Pick),
    GiveUp(Pick),
    Close(Pick),
    TakeBack(Pick),
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(fuzzing, derive(Arbitrary))]
pub(crate) enum Way {
    ByHandle,
    ByName,
    DropHandle,
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(fuzzing, derive(Arbitrary))]
pub(crate) enum At {
    Start,
    Next,
    Offset(u8),
}

/// One of the nodes, open files, removals or names that there are.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(fuzzing, derive(Arbitrary))]
pub(crate) struct Pick(pub(crate) u8);

impl Pick {
    fn get<T>(self, from: &[T]) -> &T {
        &from[usize::from(self.0) % from.len()]
    }

    fn name(self) -> usize {
        usize::from(self.0) % NAMES.len()
    }
}

/// Few names, so that they meet.
const NAMES: [&str; 3] = ["a", "b", "c"];

// ---- the contract

/// The answer of a step, the same from the model and from the tree.
#[derive(Debug, PartialEq)]
enum Answer {
    /// There was nothing to do it with.
    Skipped,
    Done(Result<(), Errno>),
    Bytes(Result<Vec<u8>, Errno>),
    Events(Events),
    /// It would have to wait.
    Pending,
    /// Whether the removal is done, and with it the driver back.
    Back(bool),
}

#[derive(Default)]
struct Model {
    nodes: Vec<Node>,
    opens: Vec<Open>,
    /// `None` once they were waited for.
    removals: Vec<Option<Removal>>,
}

struct Node {
    parent: Option<usize>,
    name: usize,
    file: Option<FileState>,
    removed: bool,
    /// The owner has a handle.
    owned: bool,
    /// Who was inside at its last severing, and still may be.
    lingering: Vec<usize>,
}

#[derive(Clone, Copy)]
struct FileState {
    hidden: bool,
    value: u8,
    event: u64,
}

struct Open {
    file: usize,
    severed: bool,
    /// The client closed its descriptor.
    closed: bool,
    /// The event count that an operation saw that is inside.
    inside: Option<u64>,
    seen: u64,
    /// What was rendered last, and where the next read continues.
    text: Vec<u8>,
    next: u64,
    waiting: bool,
    /// A waiter was woken since it began to wait.
    rung: bool,
    released: bool,
    freed: bool,
}

/// A removal that is not waited for yet: done when none of these is inside any more.
struct Removal {
    lingering: Vec<usize>,
}

const ROOT: usize = 0;

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        model.node(None, 0, None);
        model
    }

    fn node(&mut self, parent: Option<usize>, name: usize, file: Option<FileState>) -> usize {
        let (removed, owned, lingering) = (false, true, Vec::new());
        self.nodes.push(Node { parent, name, file, removed, owned, lingering });
        self.nodes.len() - 1
    }

    fn child(&self, dir: usize, name: usize) -> Option<usize> {
        let is_it = |node: &Node| node.parent == Some(dir) && node.name == name && !node.removed;
        self.nodes.iter().position(is_it)
    }

    fn is_below(&self, node: usize, top: usize) -> bool {
        node == top || self.nodes[node].parent.is_some_and(|above| self.is_below(above, top))
    }

    fn hidden(&self, node: usize) -> bool {
        self.nodes[node].file.is_some_and(|file| file.hidden)
    }

    /// A client finds what is attached, not removed and not hidden.
    fn finds(&self, node: usize) -> bool {
        self.is_below(node, ROOT) && !self.nodes[node].removed && !self.hidden(node)
    }

    /// A directory takes a node in if it was not removed, and the name is free, hidden files
    /// included.
    fn enter(&mut self, node: usize, dir: usize, name: usize) -> Result<(), Errno> {
        if self.nodes[dir].removed {
            return Err(Errno::ENOENT);
        }
        if self.child(dir, name).is_some() {
            return Err(Errno::EEXIST);
        }
        (self.nodes[node].parent, self.nodes[node].name) = (Some(dir), name);
        Ok(())
    }

    fn add(&mut self, dir: usize, name: usize, is_file: bool) -> Result<(), Errno> {
        let file = is_file.then_some(FileState { hidden: false, value: 0, event: 1 });
        let node = self.node(None, name, file);
        self.enter(node, dir, name).inspect_err(|_| drop(self.nodes.pop()))
    }

    /// A detached directory can be attached once, and not below itself.
    fn attach(&mut self, node: usize, to: usize, name: usize) -> Result<(), Errno> {
        if self.nodes[node].parent.is_some() || self.is_below(to, node) {
            return Err(Errno::EINVAL);
        }
        self.enter(node, to, name)
    }

    fn rename(&mut self, node: usize, to: usize, name: usize) -> Result<(), Errno> {
        if self.nodes[node].removed || self.hidden(node) || self.nodes[to].removed {
            return Err(Errno::ENOENT);
        }
        let Some(from) = self.nodes[node].parent else { return Err(Errno::EINVAL) };
        if from == to && self.nodes[node].name == name {
            return Ok(());
        }
        if self.is_below(to, node) {
            return Err(Errno::EINVAL);
        }
        self.enter(node, to, name)
    }

    /// Severing ends all open files at once: they are dead for ever, and whoever slept is woken.
    /// Each is released when nobody is inside; what the removal waits for is only these.
    fn sever_opens(&mut self, file: usize) {
        for open in self.opens.iter_mut().filter(|open| open.file == file && !open.freed) {
            open.severed = true;
            open.rung |= open.waiting;
            open.released |= open.inside.is_none();
        }
    }

    /// Removes a node with all below it; doing it again waits for the same.
    fn sever(&mut self, top: usize) -> Removal {
        let is_there = |&node: &usize| !self.nodes[node].removed && self.is_below(node, top);
        let below: Vec<_> = (0..self.nodes.len()).filter(is_there).collect();
        for &node in &below {
            self.nodes[node].removed = true;
            self.sever_opens(node);
        }
        self.removal(top, &below)
    }

    /// Hiding severs and refuses new opens; showing ends only the refusal.
    fn hide(&mut self, node: usize) -> Removal {
        if self.nodes[node].removed || self.hidden(node) {
            return self.removal(node, &[]);
        }
        self.nodes[node].file.iter_mut().for_each(|file| file.hidden = true);
        self.sever_opens(node);
        self.removal(node, &[node])
    }

    /// A removal outlasts the earlier ones of all nodes that it severs, and of what was below them.
    fn removal(&mut self, top: usize, severed: &[usize]) -> Removal {
        let concerns = |open: &Open| severed.iter().any(|&node| self.is_below(open.file, node));
        let lingers = |open: &Open| open.severed && open.inside.is_some() && concerns(open);
        let opens = self.opens.iter().enumerate().filter(|(_, open)| lingers(open));
        let lingering: Vec<_> = opens.map(|(at, _)| at).collect();
        severed.iter().for_each(|&node| self.nodes[node].lingering = lingering.clone());
        Removal { lingering: self.nodes[top].lingering.clone() }
    }

    fn is_done(&self, removal: &Removal) -> bool {
        removal.lingering.iter().all(|&open| self.opens[open].inside.is_none())
    }

    fn show(&mut self, node: usize) {
        if !self.nodes[node].removed {
            self.nodes[node].file.iter_mut().for_each(|file| file.hidden = false);
        }
    }

    fn notify(&mut self, node: usize) {
        self.nodes[node].file.iter_mut().for_each(|file| file.event += 1);
        let opens = self.opens.iter_mut().filter(|open| open.file == node);
        opens.for_each(|open| open.rung |= open.waiting);
    }

    fn open(&mut self, file: usize) -> Result<(), Errno> {
        if self.finds(file) { self.reopen(file) } else { Err(Errno::ENOENT) }
    }

    /// Opens what was found before (through `/proc/self/fd`, say).
    fn reopen(&mut self, file: usize) -> Result<(), Errno> {
        if self.nodes[file].removed || self.hidden(file) {
            return Err(ENODEV);
        }
        self.opens.push(Open {
            file,
            severed: false,
            closed: false,
            inside: None,
            seen: 0,
            text: Vec::new(),
            next: 0,
            waiting: false,
            rung: false,
            released: false,
            freed: false,
        });
        Ok(())
    }

    /// Reads a snapshot that a read from the start takes, or one that goes on nowhere. Of a dead
    /// file only the rest of a snapshot that was begun can be read. A read of nothing comes to no
    /// driver, alive or dead.
    fn read(&mut self, at: usize, offset: u64, len: usize) -> Answer {
        if len == 0 {
            return Answer::Bytes(Ok(Vec::new()));
        }
        let open = &mut self.opens[at];
        let goes_on = offset == open.next && offset != 0;
        if open.severed {
            let rest = goes_on && offset < open.text.len() as u64 && open.inside.is_none();
            return Answer::Bytes(if rest { Ok(open.deliver(offset, len)) } else { Err(ENODEV) });
        }
        if open.inside.is_some() {
            return Answer::Pending;
        }
        let file = self.nodes[open.file].file.as_ref().unwrap();
        if !goes_on {
            (open.text, open.seen) = (text_of(file.value), file.event);
        }
        Answer::Bytes(Ok(open.deliver(offset, len)))
    }

    fn write(&mut self, at: usize, value: u8) -> Answer {
        let open = &self.opens[at];
        match (open.severed, open.inside) {
            (true, _) => Answer::Done(Err(ENODEV)),
            (_, Some(_)) => Answer::Pending,
            _ => {
                self.nodes[open.file].file.as_mut().unwrap().value = value;
                Answer::Done(Ok(()))
            }
        }
    }

    /// An operation that is inside goes on to its end, whatever is severed meanwhile; the last
    /// one out releases.
    fn leave(&mut self, at: usize) -> Answer {
        let open = &mut self.opens[at];
        let file = self.nodes[open.file].file.as_ref().unwrap();
        (open.text, open.seen) = (text_of(file.value), open.inside.take().unwrap());
        let bytes = open.deliver(0, LONG);
        open.released |= open.severed;
        if open.closed {
            (open.released, open.freed) = (true, true);
        }
        Answer::Bytes(Ok(bytes))
    }

    /// The last close releases what was not severed, and frees.
    fn close(&mut self, at: usize) {
        let open = &mut self.opens[at];
        (open.closed, open.waiting, open.rung) = (true, false, false);
        if open.inside.is_none() {
            (open.released, open.freed) = (true, true);
        }
    }

    /// Polling never waits for an operation: changed since it was read, or dead.
    fn poll(&self, at: usize) -> Events {
        let open = &self.opens[at];
        match self.nodes[open.file].file.as_ref().unwrap().event {
            _ if open.severed => Events::SEVERED,
            event if event != open.seen => Events::DEFAULT | Events::CHANGED,
            _ => Events::DEFAULT,
        }
    }
}

const ENODEV: Errno = Errno::ENODEV;

/// Long enough for every text.
const LONG: usize = 16;

fn text_of(value: u8) -> Vec<u8> {
    format!("v={value:03}\n").into_bytes()
}

impl Open {
    fn deliver(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let rest = self.text.get(offset as usize..).unwrap_or_default();
        let bytes = rest[..rest.len().min(len)].to_vec();
        self.next = offset + bytes.len() as u64;
        bytes
    }
}

// ---- the real thing

/// A knob that shows its value; a read stops inside when it is told to.
struct Knob {
    value: AtomicU8,
    opened: Arc<Mutex<Vec<Arc<Ends>>>>,
}

/// How an open file ends, and where the next read of it stops.
#[derive(Default)]
struct Ends {
    released: AtomicUsize,
    freed: AtomicUsize,
    stop: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl FileOps for Knob {
    type Open = Arc<Ends>;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<Arc<Ends>, Errno> {
        let ends = Arc::new(Ends::default());
        self.opened.lock().unwrap().push(Arc::clone(&ends));
        let freed = Arc::clone(&ends);
        op.on_free(move || {
            freed.freed.fetch_add(1, SeqCst);
        });
        Ok(ends)
    }

    fn read(&self, ends: &mut Arc<Ends>, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        if let Some((entered, go_on)) = ends.stop.lock().unwrap().take() {
            entered.send(()).unwrap();
            go_on.recv().unwrap();
        }
        op.push(&text_of(self.value.load(SeqCst)));
        Ok(())
    }

    fn write(&self, _: &mut Arc<Ends>, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.value.store(op.data()[0], SeqCst);
        Ok(1)
    }

    fn release(&self, ends: Arc<Ends>) {
        ends.released.fetch_add(1, SeqCst);
    }
}

/// Lets clients make directories, which nobody has a handle to, and remove every one.
struct ByClients;

impl DirOps for ByClients {
    fn mkdir(&self, parent: &Dir, name: &Name, op: &DirOp<'_>) -> Result<(), Errno> {
        parent.add_dir(name, op.mode()).map(Dir::keep)
    }

    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(dir.sever())
    }
}

struct Real {
    tree: Tree,
    client: Client,
    files: BTreeMap<usize, File<Knob>>,
    /// What clients found.
    found: BTreeMap<usize, Inode>,
    dirs: BTreeMap<usize, Dir>,
    /// What all drivers have opened, the last one last.
    opened: Arc<Mutex<Vec<Arc<Ends>>>>,
    opens: Vec<RealOpen>,
    removals: Vec<Option<RealRemoval>>,
}

struct RealOpen {
    file: Option<OpenFile>,
    ends: Arc<Ends>,
    inside: Option<(JoinHandle<Vec<u8>>, Sender<()>)>,
    waiter: Option<(Waiter, Arc<Bell>)>,
}

enum RealRemoval {
    OfFile(Draining<Knob>),
    Other(Draining),
}

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Real {
    fn new() -> Self {
        let tree = Tree::builder().dir_ops(ByClients).build();
        Self {
            client: tree.client(Caller::OWNER),
            tree,
            files: BTreeMap::new(),
            found: BTreeMap::new(),
            dirs: BTreeMap::new(),
            opened: Arc::default(),
            opens: Vec::new(),
            removals: Vec::new(),
        }
    }

    fn dir(&self, node: usize) -> &Dir {
        if node == ROOT { self.tree.root() } else { &self.dirs[&node] }
    }

    fn add_file(&mut self, node: usize, dir: usize, name: usize) -> Result<(), Errno> {
        let knob = Knob { value: AtomicU8::new(0), opened: Arc::clone(&self.opened) };
        let file = self.dir(dir).add_file(NAMES[name], Mode::RW, knob)?;
        self.files.insert(node, file);
        Ok(())
    }

    fn add_dir(&mut self, node: usize, dir: usize, name: usize) -> Result<(), Errno> {
        let dir = self.dir(dir).add_dir(NAMES[name], Mode::DIR)?;
        self.dirs.insert(node, dir);
        Ok(())
    }

    fn rename(&self, node: usize, to: usize, name: usize) -> Result<(), Errno> {
        match self.files.get(&node) {
            Some(file) => file.rename(self.dir(to), NAMES[name]),
            None => self.dirs[&node].rename(self.dir(to), NAMES[name]),
        }
    }

    fn sever(&mut self, node: usize) {
        let removal = match self.files.remove(&node) {
            Some(file) => RealRemoval::OfFile(file.sever()),
            None => RealRemoval::Other(self.dirs.remove(&node).unwrap().sever()),
        };
        self.removals.push(Some(removal));
    }

    fn removal(&mut self, draining: Draining) {
        self.removals.push(Some(RealRemoval::Other(draining)));
    }

    fn open(&mut self, file: usize, path: &str) -> Result<(), Errno> {
        self.found.insert(file, self.client.lookup(path)?);
        self.reopen(file)
    }

    fn reopen(&mut self, file: usize) -> Result<(), Errno> {
        let file = self.found[&file].open(&Caller::OWNER, OpenFlags::READ_WRITE)?;
        let ends = self.opened.lock().unwrap().pop().expect("the driver was asked");
        self.opens.push(RealOpen { file: Some(file), ends, inside: None, waiter: None });
        Ok(())
    }

    fn take_back(&mut self, at: usize) -> bool {
        match self.removals[at].take().unwrap() {
            RealRemoval::OfFile(draining) if draining.is_done() => {
                let knob: Knob = draining.wait().unwrap();
                drop(knob);
            }
            RealRemoval::Other(draining) if draining.is_done() => draining.wait().unwrap(),
            not_yet => {
                self.removals[at] = Some(not_yet);
                return false;
            }
        }
        true
    }
}

impl RealOpen {
    fn file(&self) -> &OpenFile {
        self.file.as_ref().unwrap()
    }

    /// Reads, unless that would have to wait.
    fn read(&self, offset: u64, len: usize) -> Answer {
        let (mut waiter, mut buf) = (Waiter::new(), vec![0; len]);
        let mut cx = Context::from_waker(Waker::noop());
        let file = self.file();
        match file.poll_read_at(&mut cx, &mut waiter, file.opener(), &mut buf, offset) {
            Poll::Pending => Answer::Pending,
            Poll::Ready(read) => Answer::Bytes(read.map(|len| {
                buf.truncate(len);
                buf
            })),
        }
    }

    fn write(&self, value: u8) -> Answer {
        let mut waiter = Waiter::new();
        let mut cx = Context::from_waker(Waker::noop());
        let file = self.file();
        match file.poll_write_at(&mut cx, &mut waiter, file.opener(), &[value], 0) {
            Poll::Pending => Answer::Pending,
            Poll::Ready(written) => Answer::Done(written.map(|len| assert_eq!(len, 1))),
        }
    }

    /// Begins a read on a thread of its own, and returns when it has stopped inside.
    fn enter(&mut self) {
        let ((entered, has_entered), (let_go, go_on)) = (channel(), channel());
        *self.ends.stop.lock().unwrap() = Some((entered, go_on));
        let file = self.file().clone();
        let reader = std::thread::spawn(move || {
            let mut buf = vec![0; LONG];
            let len = file.read_at(&mut buf, 0).expect("it was inside before");
            buf.truncate(len);
            buf
        });
        has_entered.recv().unwrap();
        self.inside = Some((reader, let_go));
    }

    fn leave(&mut self) -> Answer {
        let (reader, let_go) = self.inside.take().unwrap();
        let_go.send(()).unwrap();
        Answer::Bytes(Ok(reader.join().unwrap()))
    }

    fn wait(&mut self) -> Answer {
        let (mut waiter, bell) = (Waiter::new(), Arc::new(Bell::default()));
        let waker = Waker::from(Arc::clone(&bell));
        let poll =
            self.file().poll_ready(&mut Context::from_waker(&waker), &mut waiter, Events::PRI);
        match poll {
            Poll::Ready(events) => Answer::Events(events),
            Poll::Pending => {
                self.waiter = Some((waiter, bell));
                Answer::Pending
            }
        }
    }

    fn rung(&self) -> bool {
        self.waiter.as_ref().is_some_and(|(_, bell)| bell.0.load(SeqCst) > 0)
    }
}

// ---- both, step by step

struct Both {
    model: Model,
    real: Real,
}

impl Both {
    /// Takes a step in both worlds; returns what each answers.
    fn take(&mut self, step: &Step) -> (Answer, Answer) {
        let Self { model, real } = self;
        let nodes = |is_it: &dyn Fn(&Node) -> bool| -> Vec<usize> {
            (0..model.nodes.len()).filter(|&node| is_it(&model.nodes[node])).collect()
        };
        let dirs = nodes(&|node| node.owned && node.file.is_none());
        let files = nodes(&|node| node.owned && node.file.is_some());
        let open = |index: &Pick| {
            let open: Vec<_> = (0..model.opens.len()).filter(|&o| !model.opens[o].closed).collect();
            (!open.is_empty()).then(|| *index.get(&open))
        };
        let pick = |index: &Pick, from: &[usize]| (!from.is_empty()).then(|| *index.get(from));
        let skipped = (Answer::Skipped, Answer::Skipped);
        macro_rules! or_skip {
            ($choice:expr) => {
                match $choice {
                    Some(choice) => choice,
                    None => return skipped,
                }
            };
        }
        match step {
            Step::AddFile(dir, name) => {
                let (dir, node) = (*dir.get(&dirs), model.nodes.len());
                let done = Answer::Done(model.add(dir, name.name(), true));
                (done, Answer::Done(real.add_file(node, dir, name.name())))
            }
            Step::AddDir(dir, name) => {
                let (dir, node) = (*dir.get(&dirs), model.nodes.len());
                let done = Answer::Done(model.add(dir, name.name(), false));
                (done, Answer::Done(real.add_dir(node, dir, name.name())))
            }
            Step::MakeDetached => {
                let node = model.node(None, 0, None);
                real.dirs.insert(node, real.tree.detached_dir(Mode::DIR));
                skipped
            }
            Step::Attach { dir, to, name } => {
                let dir = or_skip!(pick(dir, &dirs[1..]));
                let to = *to.get(&dirs);
                let attached = real.dir(to).attach(NAMES[name.name()], real.dir(dir));
                (Answer::Done(model.attach(dir, to, name.name())), Answer::Done(attached))
            }
            Step::Rename { node, to, name } => {
                let node = or_skip!(pick(node, &[&dirs[1..], &files[..]].concat()));
                let to = *to.get(&dirs);
                let renamed = real.rename(node, to, name.name());
                (Answer::Done(model.rename(node, to, name.name())), Answer::Done(renamed))
            }
            Step::Hide(file) => {
                let file = or_skip!(pick(file, &files));
                let removal = model.hide(file);
                model.removals.push(Some(removal));
                real.removal(real.files[&file].hide());
                skipped
            }
            Step::Show(file) => {
                let file = or_skip!(pick(file, &files));
                model.show(file);
                real.files[&file].show();
                skipped
            }
            Step::Notify(file) => {
                let file = or_skip!(pick(file, &files));
                model.notify(file);
                real.files[&file].notify();
                skipped
            }
            Step::Sever(node, way) => {
                let node = or_skip!(pick(node, &[&dirs[1..], &files[..]].concat()));
                let parent = model.nodes[node].parent.filter(|&dir| model.nodes[dir].owned);
                match (way, parent) {
                    (Way::ByName, Some(parent)) if !model.nodes[node].removed => {
                        let name = NAMES[model.nodes[node].name];
                        real.removal(real.dir(parent).sever_child(name).unwrap());
                    }
                    (Way::ByName, _) => return skipped,
                    (Way::ByHandle, _) => real.sever(node),
                    (Way::DropHandle, _) => {
                        drop((real.files.remove(&node), real.dirs.remove(&node)));
                    }
                }
                model.nodes[node].owned = matches!(way, Way::ByName);
                let removal = model.sever(node);
                if !matches!(way, Way::DropHandle) {
                    model.removals.push(Some(removal));
                }
                skipped
            }
            Step::Mkdir(dir, name) => {
                let dir = or_skip!(pick(dir, &self.listed()));
                let Self { model, real } = self;
                let path = format!("{}/{}", model.path(dir), NAMES[name.name()]);
                let made = model.add(dir, name.name(), false);
                if made.is_ok() {
                    model.nodes.last_mut().unwrap().owned = false;
                }
                (Answer::Done(made), Answer::Done(real.client.mkdir(path, Mode::DIR)))
            }
            Step::Rmdir(dir, name) => {
                let dir = or_skip!(pick(dir, &self.listed()));
                let Self { model, real } = self;
                let path = format!("{}/{}", model.path(dir), NAMES[name.name()]);
                let child = model.child(dir, name.name()).filter(|&child| !model.hidden(child));
                let removed = match child {
                    None => Err(Errno::ENOENT),
                    Some(child) if model.nodes[child].file.is_some() => Err(Errno::ENOTDIR),
                    Some(child) => Ok(model.sever(child)),
                };
                let answer = removed.map(|removal| model.removals.push(Some(removal)));
                let real_answer = real.client.rmdir(path).map(|removal| real.removal(removal));
                (Answer::Done(answer), Answer::Done(real_answer))
            }
            Step::Open(file) => {
                let attached =
                    |&file: &usize| !model.nodes[file].removed && model.is_below(file, ROOT);
                let files: Vec<_> = files.into_iter().filter(attached).collect();
                let file = or_skip!(pick(file, &files));
                let path = model.path(file);
                (Answer::Done(model.open(file)), Answer::Done(real.open(file, &path)))
            }
            Step::Reopen(file) => {
                let found: Vec<_> = real.found.keys().copied().collect();
                let file = or_skip!(pick(file, &found));
                (Answer::Done(model.reopen(file)), Answer::Done(real.reopen(file)))
            }
            Step::Read { open: index, at, len } => {
                let open = or_skip!(open(index));
                let offset = match at {
                    At::Start => 0,
                    At::Next => model.opens[open].next,
                    At::Offset(offset) => (*offset).into(),
                };
                let len = usize::from(*len);
                (model.read(open, offset, len), real.opens[open].read(offset, len))
            }
            Step::Write(index, value) => {
                let open = or_skip!(open(index));
                (model.write(open, *value), real.opens[open].write(*value))
            }
            Step::Enter(index) => {
                let open = or_skip!(open(index));
                if model.opens[open].severed || model.opens[open].inside.is_some() {
                    return skipped;
                }
                let event = model.nodes[model.opens[open].file].file.unwrap().event;
                model.opens[open].inside = Some(event);
                real.opens[open].enter();
                skipped
            }
            Step::Leave(index) => {
                let inside = |&open: &usize| model.opens[open].inside.is_some();
                let inside: Vec<_> = (0..model.opens.len()).filter(inside).collect();
                let open = or_skip!(pick(index, &inside));
                (model.leave(open), real.opens[open].leave())
            }
            Step::Poll(index) => {
                let open = or_skip!(open(index));
                let events = real.opens[open].file().ready(Events::all());
                (Answer::Events(model.poll(open)), Answer::Events(events))
            }
            Step::Wait(index) => {
                let open = or_skip!(open(index));
                real.opens[open].waiter = None;
                let events = model.poll(open) & Events::CHANGED;
                model.opens[open].waiting = events.is_empty();
                model.opens[open].rung = false;
                let answer = match events.is_empty() {
                    true => Answer::Pending,
                    false => Answer::Events(events),
                };
                (answer, real.opens[open].wait())
            }
            Step::GiveUp(index) => {
                let open = or_skip!(open(index));
                (model.opens[open].waiting, model.opens[open].rung) = (false, false);
                real.opens[open].waiter = None;
                skipped
            }
            Step::Close(index) => {
                let open = or_skip!(open(index));
                model.close(open);
                real.opens[open].waiter = None;
                real.opens[open].file = None;
                skipped
            }
            Step::TakeBack(index) => {
                let there = |&at: &usize| model.removals[at].is_some();
                let there: Vec<_> = (0..model.removals.len()).filter(there).collect();
                let at = or_skip!(pick(index, &there));
                let back = model.removals[at].take_if(|_| true).unwrap();
                let done = model.is_done(&back);
                if !done {
                    model.removals[at] = Some(back);
                }
                (Answer::Back(done), Answer::Back(real.take_back(at)))
            }
        }
    }

    /// The directories that clients can list.
    fn listed(&self) -> Vec<usize> {
        let model = &self.model;
        let is_it = |&node: &usize| model.nodes[node].file.is_none() && model.finds(node);
        (0..model.nodes.len()).filter(is_it).collect()
    }

    /// Compares everything that can be seen from outside.
    fn compare(&self) {
        let Self { model, real } = self;
        for (open, real) in model.opens.iter().zip(&real.opens) {
            assert_eq!(usize::from(open.released), real.ends.released.load(SeqCst), "released");
            assert_eq!(usize::from(open.freed), real.ends.freed.load(SeqCst), "freed");
            assert_eq!(open.rung, real.rung(), "woken");
        }
        let usage = real.tree.usage();
        assert_eq!(usage.open_files, model.opens.iter().filter(|open| !open.freed).count());
        assert_eq!(usage.nodes, model.nodes.iter().filter(|node| !node.removed).count());
        for dir in self.listed() {
            let children = (0..model.nodes.len())
                .filter(|&node| model.nodes[node].parent == Some(dir) && model.finds(node));
            let mut names: Vec<_> = children.map(|child| NAMES[model.nodes[child].name]).collect();
            let listing = real.client.open_dir(model.path(dir) + "/").unwrap();
            let entries = listing.entries(2, 100).unwrap();
            let mut real: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
            names.sort_unstable();
            real.sort_unstable();
            assert_eq!(real, names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>());
        }
    }

    /// Lets go of everything, after which everything must have ended.
    fn end(mut self) {
        for at in 0..self.model.opens.len() {
            if self.model.opens[at].inside.is_some() {
                assert_eq!(self.real.opens[at].leave(), self.model.leave(at));
            }
        }
        for at in 0..self.model.removals.len() {
            assert!(self.model.removals[at].is_none() || self.real.take_back(at));
        }
        let Real { tree, files, dirs, opens, .. } = self.real;
        tree.remove().unwrap();
        drop(dirs);
        for (_, file) in files {
            file.into_inner().expect("at rest");
        }
        for RealOpen { file, ends, .. } in opens {
            drop(file);
            assert_eq!(ends.released.load(SeqCst), 1);
            assert_eq!(ends.freed.load(SeqCst), 1);
        }
    }
}

impl Model {
    fn path(&self, node: usize) -> String {
        let above = self.nodes[node].parent.map(|parent| self.path(parent));
        above.map_or_else(String::new, |above| above + "/" + NAMES[self.nodes[node].name])
    }
}
