//! Shapes of files: text, records, bytes, streams; limits on what is written and read.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};

use kernfs::{
    Caller, Client, Errno, Events, File, FileOps, FileOptions, Kind, Manners, MapOp, Mode,
    OpenFile, OpenFlags, OpenOp, Ops, PAGE_SIZE, ReadOp, ReadShared, Readiness, ReadyBy, Reply,
    Seq, SeqOps, Tree, WriteLimit, WriteOp, show,
};
use kernfs_tests::probe::{Sleeper, eventually};

fn tree() -> (Tree, Client) {
    let tree = Tree::new();
    let client = tree.client(Caller::OWNER);
    (tree, client)
}

#[test]
fn text_is_rendered_whole_at_the_start_and_never_torn() {
    let (tree, client) = tree();
    let renders = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&renders);
    let driver = show(move |op: &mut ReadOp<'_>| {
        let round = count.fetch_add(1, SeqCst);
        op.push(format!("round {round} of many\n").as_bytes());
    });
    let _file = tree.root().add_file("f", Mode::RO, driver).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    let mut buf = [0; 8];
    let mut text = Vec::new();
    loop {
        let len = held.read(&mut buf[..3]).unwrap();
        if len == 0 {
            break;
        }
        text.extend_from_slice(&buf[..len]);
    }
    assert_eq!(text, b"round 0 of many\n");
    assert_eq!(renders.load(SeqCst), 1);
    assert_eq!(held.read_at(&mut buf, 0), Ok(8));
    assert_eq!(&buf, b"round 1 ");
    assert_eq!(held.read_at(&mut buf, 6), Ok(8), "elsewhere: rendered anew");
    assert_eq!(&buf, b"2 of man");
    assert_eq!(held.read_at(&mut buf, 14), Ok(2), "in sequence: not");
    assert_eq!(held.read_at(&mut buf, 1000), Ok(0));
    assert_eq!(held.read_at(&mut [], 0), Ok(0));
}

#[test]
fn writes_are_limited_as_the_manners_say() {
    struct Takes(Mutex<Vec<usize>>);
    impl FileOps for Takes {
        type Open = ();
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
            self.0.lock().unwrap().push(op.data().len());
            Ok(usize::MAX)
        }
    }
    let takes = || Takes(Mutex::default());
    let wrote = |tree: &Tree, len| {
        let client = tree.client(Caller::OWNER);
        client.open("/f", OpenFlags::WRITE).unwrap().write_at(&vec![0; len], 0)
    };
    let tree = Tree::new();
    let file = tree.root().add_file("f", Mode::RW, takes()).unwrap();
    assert_eq!(wrote(&tree, 4096), Ok(4096), "no more than was offered");
    assert_eq!(wrote(&tree, 4097), Err(Errno::E2BIG));
    assert_eq!(wrote(&tree, 0), Ok(0));
    assert_eq!(*file.0.lock().unwrap(), [4096, 0]);

    let tree = Tree::new();
    let small = FileOptions::new(Mode::RW).write_limit(WriteLimit::Atomic(10));
    let file = tree.root().add_file("f", small, takes()).unwrap();
    assert_eq!((wrote(&tree, 10), wrote(&tree, 11)), (Ok(10), Err(Errno::E2BIG)));
    assert_eq!(*file.0.lock().unwrap(), [10]);

    let tree = Tree::builder().manners(Manners::Sysfs).build();
    let file = tree.root().add_file("f", Mode::RW, takes()).unwrap();
    assert_eq!(wrote(&tree, 5000), Ok(4096), "a short count");
    assert_eq!(*file.0.lock().unwrap(), [4096]);
    assert_eq!(tree.client(Caller::OWNER).lookup("/f").unwrap().attr().size, 4096);
}

#[test]
fn text_of_sysfs_ends_below_a_page_and_text_of_cgroups_does_not() {
    for (manners, len) in [(Manners::Sysfs, 4095), (Manners::Cgroup, 10_000)] {
        let tree = Tree::builder().manners(manners).build();
        let _f = tree.root().add_file("f", Mode::RO, show(|op| op.push(&[b'x'; 10_000]))).unwrap();
        let held = tree.client(Caller::OWNER).open("/f", OpenFlags::READ).unwrap();
        assert_eq!(held.read_to_vec().unwrap().len(), len);
    }
}

#[test]
fn descriptors_do_only_what_they_were_opened_for() {
    let (tree, client) = tree();
    let _f = tree.root().add_file("f", Mode::RW, show(|op| op.push(b"1"))).unwrap();
    let reader = client.open("/f", OpenFlags::READ).unwrap();
    let writer = client.open("/f", OpenFlags::WRITE).unwrap();
    assert_eq!(reader.write_at(b"1", 0), Err(Errno::EBADF));
    assert_eq!(writer.read_at(&mut [0; 4], 0), Err(Errno::EBADF));
    assert_eq!(writer.write_at(b"1", 0), Err(Errno::EINVAL), "no such callback");
    assert_eq!(reader.map(0, 1, false).unwrap_err(), Errno::ENODEV);
    assert_eq!(client.open("/", OpenFlags::READ).unwrap_err(), Errno::EISDIR);
}

/// A list whose items are counted: how many are alive, how often a pass began and ended.
struct Numbers {
    last: usize,
    alive: Arc<AtomicUsize>,
    starts: AtomicUsize,
    stops: Arc<AtomicUsize>,
}

struct Number(usize, Arc<AtomicUsize>);

impl Drop for Number {
    fn drop(&mut self) {
        self.1.fetch_sub(1, SeqCst);
    }
}

impl Numbers {
    fn item(&self, number: usize) -> Option<Number> {
        if number > self.last {
            return None;
        }
        self.alive.fetch_add(1, SeqCst);
        Some(Number(number, Arc::clone(&self.alive)))
    }
}

impl SeqOps for Numbers {
    type Item = Number;

    fn start(&self) -> Result<Option<Number>, Errno> {
        self.starts.fetch_add(1, SeqCst);
        Ok(self.item(1))
    }
    fn next(&self, item: Number) -> Result<Option<Number>, Errno> {
        Ok(self.item(item.0 + 1))
    }
    fn show(&self, item: &Number, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        op.push(format!("{}\n", item.0).as_bytes());
        Ok(())
    }
    fn stop(&self, item: Option<Number>) {
        self.stops.fetch_add(1, SeqCst);
        drop(item);
    }
}

#[test]
fn a_list_keeps_its_item_across_reads_and_lets_go_of_it_at_release() {
    let (tree, client) = tree();
    let (alive, stops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let numbers = Numbers {
        last: 5000,
        alive: Arc::clone(&alive),
        starts: AtomicUsize::new(0),
        stops: Arc::clone(&stops),
    };
    let file = tree.root().add_file("f", Mode::RO, Seq(numbers)).unwrap();
    let expected: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    assert_eq!(held.read_to_string().unwrap(), expected);
    assert_eq!(file.0.starts.load(SeqCst), 1, "one pass, whatever the number of reads");
    assert_eq!(alive.load(SeqCst), 0);

    let mut text = Vec::new();
    held.seek(0).unwrap();
    let mut buf = [0; 7];
    while text.len() < 1000 {
        let len = held.read(&mut buf).unwrap();
        text.extend_from_slice(&buf[..len]);
    }
    assert_eq!(text, expected.as_bytes()[..text.len()]);
    assert_eq!((file.0.starts.load(SeqCst), stops.load(SeqCst)), (2, 1));
    assert_eq!(alive.load(SeqCst), 1, "the reader holds its place");
    let other = client.open("/f", OpenFlags::READ).unwrap();
    assert_eq!(other.read(&mut buf), Ok(7));
    assert_eq!(alive.load(SeqCst), 2, "each reader its own");
    drop(other);
    assert_eq!(alive.load(SeqCst), 1);
    drop(file.remove().unwrap());
    assert_eq!(alive.load(SeqCst), 0, "the place was given up at severing");
    assert_eq!(stops.load(SeqCst), 3, "each pass was ended once");
}

/// Bytes at exact offsets, which are noted.
struct Bytes {
    asked: Mutex<Vec<(u64, usize)>>,
}

impl FileOps for Bytes {
    type Open = ();
    const KIND: Kind = Kind::Binary;
    const OPS: Ops = Ops::all();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }
    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.asked.lock().unwrap().push((op.offset(), op.max_len()));
        op.push(&[7; 100]);
        Ok(())
    }
    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.asked.lock().unwrap().push((op.offset(), op.data().len()));
        Ok(op.data().len())
    }
}

#[test]
fn binary_files_are_read_at_exact_offsets_up_to_their_size() {
    let (tree, client) = tree();
    let options = FileOptions::new(Mode::RW).size(50);
    let file = tree.root().add_file("f", options, Bytes { asked: Mutex::default() }).unwrap();
    let held = client.open("/f", OpenFlags::READ_WRITE).unwrap();
    let mut buf = [0; 200];
    assert_eq!(held.read_at(&mut buf[..10], 33), Ok(10));
    assert_eq!(held.read_at(&mut buf, 40), Ok(10));
    assert_eq!(held.read_at(&mut buf, 50), Ok(0));
    assert_eq!(held.read_at(&mut buf, u64::MAX), Ok(0));
    assert_eq!(held.write_at(&[1, 2, 3], 47), Ok(3));
    assert_eq!(*file.asked.lock().unwrap(), [(33, 10), (40, 10), (47, 3)]);
    file.set_size(60);
    assert_eq!(held.read_at(&mut buf, 40), Ok(20));

    assert_eq!(held.map(0, 0, false).unwrap_err(), Errno::EINVAL);
    assert_eq!(held.map(u64::MAX, 2, false).unwrap_err(), Errno::EINVAL);
    let map = held.map(8, 20, false).unwrap();
    assert_eq!(map.length(), 20);
    assert_eq!(map.read_at(&mut buf[..20], 0), Ok(()));
    assert_eq!(file.asked.lock().unwrap().last(), Some(&(8, 20)), "the offset of the mapping");
    assert_eq!(map.read_at(&mut buf[..21], 0), Err(Errno::EFAULT));
    assert_eq!(map.write_at(&[1], 0), Err(Errno::EACCES));
    let reader = client.open("/f", OpenFlags::READ).unwrap();
    assert_eq!(reader.map(0, 8, true).unwrap_err(), Errno::EACCES);
    let far = held.map(0, 100, false).unwrap();
    assert_eq!(far.read_at(&mut buf[..10], 55), Err(Errno::EFAULT), "beyond the end of the file");
    // A mapping pins the open file, not the other way round.
    drop((held, reader, map));
    assert_eq!(tree.usage().open_files, 1);
    drop(far);
    assert_eq!(tree.usage().open_files, 0);
}

#[test]
fn a_mapping_is_read_and_written_whole_in_pages() {
    const AT_ONCE: usize = 3000;
    const LEN: usize = 2 * PAGE_SIZE + 10;

    /// Gives and takes not more at once, and stops at its end.
    struct Memory(Mutex<Vec<u8>>, Mutex<Vec<(u64, usize)>>);
    impl FileOps for Memory {
        type Open = ();
        const KIND: Kind = Kind::Binary;
        const OPS: Ops = Ops::all();
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
            let bytes = self.0.lock().unwrap();
            let rest = bytes.get(op.offset() as usize..).unwrap_or_default();
            op.push(&rest[..rest.len().min(op.max_len()).min(AT_ONCE)]);
            Ok(())
        }
        fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
            self.1.lock().unwrap().push((op.offset(), op.data().len()));
            let mut bytes = self.0.lock().unwrap();
            let rest = bytes.get_mut(op.offset() as usize..).unwrap_or_default();
            let len = rest.len().min(op.data().len()).min(AT_ONCE);
            rest[..len].copy_from_slice(&op.data()[..len]);
            Ok(len)
        }
        fn mmap(&self, (): &mut (), _: &MapOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
    }
    let (tree, client) = tree();
    let options = FileOptions::new(Mode::RW).size(5 * PAGE_SIZE as u64);
    let driver = Memory(Mutex::new(vec![0; 100 + LEN]), Mutex::default());
    let file = tree.root().add_file("f", options, driver).unwrap();
    let held = client.open("/f", OpenFlags::READ_WRITE).unwrap();
    let map = held.map(100, 4 * PAGE_SIZE as u64, true).unwrap();
    let data: Vec<u8> = (0..LEN).map(|n| (n % 251) as u8 + 1).collect();
    assert_eq!(map.write_at(&data, 0), Ok(()));
    assert_eq!(file.0.lock().unwrap()[..100], [0; 100]);
    assert_eq!(file.0.lock().unwrap()[100..], data);
    let writes = [(100, 4096), (3100, 4096), (6100, LEN - 6000)];
    assert_eq!(*file.1.lock().unwrap(), writes, "a page at most, and the rest of what was taken");
    let mut back = vec![0; LEN];
    assert_eq!(map.read_at(&mut back, 0), Ok(()));
    assert_eq!(back, data);

    // Where the driver gives and takes no more, a real mapping has no page.
    assert_eq!(map.write_at(b"end", LEN as u64 - 1), Err(Errno::EFAULT));
    assert_eq!(map.read_at(&mut [0; 3], LEN as u64 - 1), Err(Errno::EFAULT));
    // Nothing is asked of it beyond the mapping, nor for nothing.
    let asked = file.1.lock().unwrap().len();
    assert_eq!(map.write_at(b"end", map.length() - 2), Err(Errno::EFAULT));
    assert_eq!(map.write_at(b"end", u64::MAX), Err(Errno::EFAULT));
    assert_eq!(map.write_at(&[], map.length()), Ok(()));
    assert_eq!(file.1.lock().unwrap().len(), asked);
    let _ = file.remove().unwrap();
    assert_eq!(map.write_at(b"end", 0), Err(Errno::ENODEV));
}

#[test]
fn reads_that_share_an_open_file_run_side_by_side() {
    struct SideBySide(Barrier);
    impl FileOps for SideBySide {
        type Open = ();
        const KIND: Kind = Kind::Binary;
        const READ_SHARED: Option<ReadShared<Self>> = Some(ReadShared::new(|shared, (), op| {
            // Passed only if two are inside at once.
            shared.0.wait();
            op.push(b"data");
            Ok(())
        }));
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
    }
    let (tree, client) = tree();
    let _f = tree.root().add_file("f", Mode::RO, SideBySide(Barrier::new(2))).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    let readers = [(); 2].map(|()| {
        let held = held.clone();
        Sleeper::spawn(move || held.read_at(&mut [0; 8], 0))
    });
    assert_eq!(readers.map(|reader| reader.join("shared reads")), [Ok(4), Ok(4)]);
}

/// A driver that takes its replies along.
#[derive(Default)]
struct Defers {
    reads: Mutex<Vec<Reply<Vec<u8>>>>,
    writes: Mutex<Vec<Reply<usize>>>,
}

impl FileOps for Defers {
    type Open = ();

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }
    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.reads.lock().unwrap().push(op.defer());
        Ok(())
    }
    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.writes.lock().unwrap().push(op.defer());
        Ok(0)
    }
}

fn deferred() -> (Tree, Client, File<Defers>) {
    let (tree, client) = tree();
    let file = tree.root().add_file("f", Mode::RW, Defers::default()).unwrap();
    (tree, client, file)
}

#[test]
fn deferred_operations_are_answered_later_and_leave_the_open_file_free() {
    let (_tree, client, file) = deferred();
    let held = client.open("/f", OpenFlags::READ_WRITE).unwrap();
    let reader = Sleeper::spawn({
        let held = held.clone();
        move || {
            let mut buf = [0; 16];
            held.read(&mut buf[..4]).map(|len| buf[..len].to_vec())
        }
    });
    eventually("the read is deferred", || file.reads.lock().unwrap().len() == 1);
    // The same open file is free for a write meanwhile.
    let writer = Sleeper::spawn({
        let held = held.clone();
        move || held.write_at(b"12345", 0)
    });
    eventually("the write is deferred", || file.writes.lock().unwrap().len() == 1);
    assert!(reader.result_now().is_none());
    let reply = file.writes.lock().unwrap().pop().unwrap();
    assert_eq!(reply.answer(Ok(3)), Ok(()));
    assert_eq!(writer.join("a deferred write"), Ok(3));
    let reply = file.reads.lock().unwrap().pop().unwrap();
    assert_eq!(reply.answer(Ok(b"late news".to_vec())), Ok(()));
    assert_eq!(reader.join("a deferred read").as_deref(), Ok(&b"late"[..]));
    // Text is kept for the reads that follow, deferred or not.
    let mut buf = [0; 16];
    assert_eq!(held.read(&mut buf), Ok(5));
    assert_eq!(&buf[..5], b" news");
    assert_eq!(file.reads.lock().unwrap().len(), 0);
}

#[test]
fn a_reply_that_is_dropped_answers_eio_and_an_error_is_passed_on() {
    for answer in [None, Some(Errno::EBUSY)] {
        let (_tree, client, file) = deferred();
        let held = client.open("/f", OpenFlags::READ_WRITE).unwrap();
        let writer = Sleeper::spawn(move || held.write_at(b"1", 0));
        eventually("the write is deferred", || file.writes.lock().unwrap().len() == 1);
        let reply = file.writes.lock().unwrap().pop().unwrap();
        match answer {
            None => drop(reply),
            Some(errno) => reply.answer(Err(errno)).unwrap(),
        }
        assert_eq!(writer.join("a deferred write"), Err(answer.unwrap_or(Errno::EIO)));
    }
}

#[test]
fn a_reader_who_must_not_wait_gets_eagain_and_the_answer_comes_back() {
    let (_tree, client, file) = deferred();
    let held = client.open("/f", OpenFlags::READ | OpenFlags::NONBLOCK).unwrap();
    assert_eq!(held.read_at(&mut [0; 4], 0), Err(Errno::EAGAIN));
    let reply = file.reads.lock().unwrap().pop().unwrap();
    assert_eq!(reply.answer(Ok(vec![1])), Err(Ok(vec![1])));
}

#[test]
fn a_client_that_gives_up_gives_the_answer_back() {
    let (_tree, client, file) = deferred();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    {
        let mut buf = [0; 4];
        let mut read = std::pin::pin!(held.read_at_async(&mut buf, 0));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(read.as_mut().poll(&mut cx).is_pending());
    }
    let reply = file.reads.lock().unwrap().pop().unwrap();
    assert_eq!(reply.answer(Ok(vec![1])), Err(Ok(vec![1])));
}

#[test]
fn a_stream_delivers_each_byte_once_and_is_ready_when_it_has_some() {
    #[derive(Default)]
    struct Events1(Mutex<Vec<u8>>);
    impl FileOps for Events1 {
        type Open = ();
        const KIND: Kind = Kind::Stream;
        const OPS: Ops = Ops::READ;
        fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
        fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
            let mut queued = self.0.lock().unwrap();
            if queued.is_empty() {
                return Err(Errno::EAGAIN);
            }
            let len = queued.len().min(op.max_len());
            op.push(&queued.drain(..len).collect::<Vec<_>>());
            Ok(())
        }
    }
    let (tree, client) = tree();
    let file = tree.root().add_file("f", Mode::RO, Events1::default()).unwrap();
    let nonblocking = client.open("/f", OpenFlags::READ | OpenFlags::NONBLOCK).unwrap();
    assert_eq!(nonblocking.read(&mut [0; 4]), Err(Errno::EAGAIN));
    assert_eq!(nonblocking.ready(Events::IN), Events::empty());
    let reader = Sleeper::spawn({
        let held = client.open("/f", OpenFlags::READ).unwrap();
        move || (held.read(&mut [0; 4]), held.read(&mut [0; 4]))
    });
    reader.until_asleep();
    file.0.lock().unwrap().extend(b"123456");
    file.notify();
    assert_eq!(reader.join("a reader of a stream"), (Ok(4), Ok(2)));
    assert_eq!(nonblocking.ready(Events::IN), Events::IN, "it has not looked since");
    assert_eq!(nonblocking.read(&mut [0; 4]), Err(Errno::EAGAIN));
    assert_eq!(nonblocking.ready(Events::IN), Events::empty());
}

/// Poll answers what a file is ready for, to the bit: who asks for one of two bits that mean the
/// same is answered like who asks for the other.
#[test]
fn a_file_tells_all_that_it_is_ready_for() {
    const WRITABLE: Events = Events::OUT.union(Events::WRNORM);
    const READABLE: Events = Events::IN.union(Events::RDNORM).union(Events::PRI);

    #[derive(Default)]
    struct Linked<const KIND: u8>(Mutex<Vec<Readiness>>);
    impl<const KIND: u8> FileOps for Linked<KIND> {
        type Open = ();
        const KIND: Kind = if KIND == 0 { Kind::Text } else { Kind::Stream };
        const OPS: Ops = Ops::READ.union(Ops::WRITE);
        fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
            self.0.lock().unwrap().push(op.readiness());
            Ok(())
        }
        fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
            Ok(())
        }
    }
    let (tree, client) = tree();
    let text = tree.root().add_file("text", Mode::RW, Linked::<0>::default()).unwrap();
    let stream = tree.root().add_file("stream", Mode::RW, Linked::<1>::default()).unwrap();
    let open = |path| client.open(path, OpenFlags::READ | OpenFlags::WRITE).unwrap();
    let (held, streaming) = (open("/text"), open("/stream"));
    let is = |held: &OpenFile, ready| assert_eq!(held.ready(Events::all()), ready);
    let [of_text] = &text.0.lock().unwrap()[..] else { panic!("opened once") };
    let [of_stream] = &stream.0.lock().unwrap()[..] else { panic!("opened once") };

    // What nobody has read yet has changed.
    is(&held, Events::DEFAULT | Events::CHANGED);
    is(&streaming, READABLE | WRITABLE);
    for held in [&held, &streaming] {
        held.read_at(&mut [0], 0).unwrap();
    }
    is(&held, Events::DEFAULT);
    is(&streaming, WRITABLE);
    text.notify();
    stream.notify();
    is(&held, Events::DEFAULT | Events::CHANGED);
    is(&streaming, READABLE | WRITABLE);
    for held in [&held, &streaming] {
        held.read_at(&mut [0], 0).unwrap();
    }
    // What the driver sets comes on top, also where it says what is so anyway.
    of_text.set(Events::IN | Events::PRI);
    of_stream.set(Events::OUT | Events::IN);
    of_stream.set_once(Events::HUP);
    is(&held, Events::DEFAULT | Events::PRI);
    is(&streaming, WRITABLE | Events::IN | Events::HUP);
    is(&streaming, WRITABLE | Events::IN);
    // Taken back is what it set, and nothing else.
    of_text.clear(Events::IN);
    of_stream.clear(Events::all());
    is(&held, Events::DEFAULT | Events::PRI);
    is(&streaming, WRITABLE);
    assert!(!of_text.is_dead() && !of_stream.is_dead());
    drop(streaming);
    assert!(of_stream.is_dead(), "closed");
    text.hide().wait().unwrap();
    assert!(of_text.is_dead(), "severed");
    is(&held, Events::SEVERED);
}

/// News is what no poll is still to report.
#[test]
fn what_is_announced_once_is_news_until_it_is_announced_again() {
    let (tree, client) = tree();
    let kept = Arc::new(Mutex::new(None));
    struct Trigger(Arc<Mutex<Option<Readiness>>>);
    impl FileOps for Trigger {
        type Open = ();
        const OPS: Ops = Ops::READ;
        const READY: ReadyBy = ReadyBy::Handle;
        fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
            *self.0.lock().unwrap() = Some(op.readiness());
            Ok(())
        }
    }
    let file = tree.root().add_file("f", Mode::RO, Trigger(Arc::clone(&kept))).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    let ready = kept.lock().unwrap().clone().unwrap();
    assert!(ready.set_once(Events::PRI));
    assert!(!ready.set_once(Events::PRI), "nobody has polled since");
    assert!(ready.set_once(Events::PRI | Events::ERR), "a part of it is news");
    assert_eq!(held.ready(Events::all()), Events::DEFAULT | Events::CHANGED);
    assert_eq!(held.ready(Events::all()), Events::DEFAULT, "once");
    assert!(ready.set_once(Events::PRI));
    assert_eq!(held.ready(Events::PRI), Events::PRI);
    let _ = file.remove().unwrap();
    assert!(!ready.set_once(Events::PRI), "no poll will report it");
}

/// What a panicking read had rendered is no data: it must not come out as the rest of a read.
#[test]
fn text_of_a_read_that_panicked_is_never_delivered() {
    struct PanicsLater;
    impl FileOps for PanicsLater {
        type Open = usize;
        const KIND: Kind = Kind::Seq;
        fn open(&self, _: &mut OpenOp<'_>) -> Result<usize, Errno> {
            Ok(0)
        }
        fn read(&self, records: &mut usize, op: &mut ReadOp<'_>) -> Result<(), Errno> {
            *records += 1;
            op.push(b"half a ");
            assert!(*records < 2, "a driver that panics in the middle of a record");
            op.push(b"rec\n");
            Ok(())
        }
    }
    let (tree, client) = tree();
    let _f = tree.root().add_file("f", Mode::RO, PanicsLater).unwrap();
    let held = client.open("/f", OpenFlags::READ).unwrap();
    let mut buf = [0; 32];
    assert_eq!(held.read(&mut buf), Ok(11));
    assert_eq!(held.read(&mut buf), Err(Errno::EIO));
    assert_eq!(held.read(&mut buf), Err(Errno::ENODEV));
}
