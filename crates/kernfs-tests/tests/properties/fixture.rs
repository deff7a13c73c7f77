//! What the property tests have in common: trees with one file, all ways to end it, all ways to
//! wait.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

use kernfs::{
    Caller, Child, Client, Dir, DirOp, DirOps, Draining, Errno, Events, File, Mode, OpenFile,
    OpenFlags, Tree,
};
use kernfs_tests::probe::{Log, Sleeper, Watched, block_on, eventually, within};

/// Lets clients remove whatever they like.
pub(crate) struct RmdirAllowed;

impl DirOps for RmdirAllowed {
    fn rmdir(&self, dir: &Child, _: &DirOp<'_>) -> Result<Draining, Errno> {
        Ok(dir.sever())
    }
}

/// A tree with a file `/d/f`.
pub(crate) struct Owner<const K: u8, const R: bool> {
    pub(crate) tree: Tree,
    pub(crate) dir: Dir,
    pub(crate) file: File<Watched<K, R>>,
    pub(crate) log: Arc<Log>,
}

impl<const K: u8, const R: bool> Owner<K, R> {
    pub(crate) fn new() -> Self {
        let log = Log::new();
        Self::with(Watched::new(&log), log)
    }

    pub(crate) fn with(driver: Watched<K, R>, log: Arc<Log>) -> Self {
        let tree = Tree::builder().dir_ops(RmdirAllowed).build();
        let dir = tree.root().add_dir("d", Mode::DIR).unwrap();
        let file = dir.add_file("f", Mode::RW, driver).unwrap();
        Self { tree, dir, file, log }
    }

    pub(crate) fn client(&self) -> Client {
        self.tree.client(Caller::OWNER)
    }

    pub(crate) fn open(&self) -> OpenFile {
        self.client().open("/d/f", OpenFlags::READ_WRITE).unwrap()
    }

    /// Opens the file and reads it, so that it is not ready.
    pub(crate) fn open_read(&self) -> OpenFile {
        let held = self.open();
        let _ = held.read_at(&mut [0; 64], 0);
        assert_eq!(held.ready(Events::PRI), Events::empty());
        held
    }
}

/// All ways in which the open files of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Hide,
    Remove,
    Sever,
    DropHandle,
    ByName,
    Subtree,
    ClientRmdir,
    DropTree,
}

pub(crate) const ENDS: [End; 8] = [
    End::Hide,
    End::Remove,
    End::Sever,
    End::DropHandle,
    End::ByName,
    End::Subtree,
    End::ClientRmdir,
    End::DropTree,
];

impl End {
    /// Ends the open files of the file, and returns what keeps the rest of the tree.
    pub(crate) fn apply<const K: u8, const R: bool>(self, owner: Owner<K, R>) -> Box<dyn Send> {
        let Owner { tree, dir, file, log } = owner;
        match self {
            Self::Hide => {
                file.hide().wait().unwrap();
                Box::new((tree, dir, file))
            }
            Self::Remove => {
                let driver = file.remove().unwrap();
                log.gone.store(true, SeqCst);
                Box::new((tree, dir, driver))
            }
            Self::Sever => {
                let driver = block_on(file.sever(), || ());
                log.gone.store(true, SeqCst);
                Box::new((tree, dir, driver))
            }
            Self::DropHandle => {
                drop(file);
                Box::new((tree, dir))
            }
            Self::ByName => {
                dir.sever_child("f").unwrap().wait().unwrap();
                log.gone.store(true, SeqCst);
                Box::new((tree, dir, file.into_inner().unwrap()))
            }
            Self::Subtree => {
                dir.remove().unwrap();
                log.gone.store(true, SeqCst);
                Box::new((tree, file.into_inner().unwrap()))
            }
            Self::ClientRmdir => {
                tree.client(Caller::OWNER).rmdir("/d").unwrap().wait().unwrap();
                log.gone.store(true, SeqCst);
                Box::new((tree, dir, file.into_inner().unwrap()))
            }
            Self::DropTree => {
                drop(tree);
                Box::new((dir, file))
            }
        }
    }
}

/// All ways in which a client can sleep on an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Blocking,
    BlockingTimeout,
    BlockedRead,
    AsyncOwnExecutor,
    AsyncReadOwnExecutor,
    AsyncTokioCurrentThread,
    AsyncTokioMultiThread,
    AsyncReadTokio,
}

pub(crate) const WAITS: [Wait; 8] = [
    Wait::Blocking,
    Wait::BlockingTimeout,
    Wait::BlockedRead,
    Wait::AsyncOwnExecutor,
    Wait::AsyncReadOwnExecutor,
    Wait::AsyncTokioCurrentThread,
    Wait::AsyncTokioMultiThread,
    Wait::AsyncReadTokio,
];

/// What a sleeper got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Events(Events),
    Read(Result<usize, Errno>),
}

impl Wait {
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::BlockedRead | Self::AsyncReadOwnExecutor | Self::AsyncReadTokio)
    }

    /// Sleeps on an open file that is not ready, until PRI.
    pub(crate) fn sleep(self, held: OpenFile) -> Sleeper<Got> {
        let pending = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&pending);
        let sleeper = Sleeper::spawn(move || self.run(&held, told));
        match self {
            Self::Blocking | Self::BlockingTimeout | Self::BlockedRead => sleeper.until_asleep(),
            _ => eventually("the future is pending", || pending.load(SeqCst)),
        }
        sleeper
    }

    fn run(self, held: &OpenFile, pending: Arc<AtomicBool>) -> Got {
        let mut buf = [0; 64];
        match self {
            Self::Blocking => Got::Events(held.wait(Events::PRI)),
            Self::BlockingTimeout => {
                let hour = std::time::Duration::from_secs(3600);
                Got::Events(held.wait_timeout(Events::PRI, hour))
            }
            Self::BlockedRead => Got::Read(held.read_at(&mut buf, 0)),
            Self::AsyncOwnExecutor => {
                let told = || pending.store(true, SeqCst);
                Got::Events(block_on(held.wait_async(Events::PRI), told))
            }
            Self::AsyncReadOwnExecutor => {
                let told = || pending.store(true, SeqCst);
                Got::Read(block_on(held.read_at_async(&mut buf, 0), told))
            }
            Self::AsyncTokioCurrentThread => {
                let wait = telling(pending, held.wait_async(Events::PRI));
                Got::Events(current_thread().block_on(wait))
            }
            Self::AsyncTokioMultiThread => {
                let held = held.clone();
                let wait = async move { telling(pending, held.wait_async(Events::PRI)).await };
                let mut tokio = tokio::runtime::Builder::new_multi_thread();
                let tokio = tokio.worker_threads(1).build().unwrap();
                Got::Events(tokio.block_on(tokio.spawn(wait)).unwrap())
            }
            Self::AsyncReadTokio => {
                let read = telling(pending, held.read_at_async(&mut buf, 0));
                Got::Read(current_thread().block_on(read))
            }
        }
    }
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Tells when a future has been polled and was not ready.
async fn telling<F: Future>(pending: Arc<AtomicBool>, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            pending.store(true, SeqCst);
        }
        polled
    })
    .await
}

/// Runs a generic test for every shape of file, with and without release work.
macro_rules! for_every_shape {
    ($test:ident) => {
        $test::<0, true>();
        $test::<0, false>();
        $test::<1, true>();
        $test::<1, false>();
        $test::<2, true>();
        $test::<2, false>();
        $test::<3, true>();
        $test::<3, false>();
    };
}

pub(crate) use for_every_shape;

/// Does something on another thread at the same moment, again and again.
///
/// `each` makes what one iteration is about; `here` and `there` are let go at once.
pub(crate) fn race<S: Send + 'static, O: Send + 'static>(
    iterations: usize,
    mut each: impl FnMut(usize) -> (S, O) + Send + 'static,
    mut here: impl FnMut(O) + Send + 'static,
    mut there: impl FnMut(S) + Send + 'static,
) {
    within("a race", move || {
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let (send, receive) = std::sync::mpsc::channel::<S>();
        let (done, finished) = std::sync::mpsc::channel::<()>();
        let peer = Arc::clone(&barrier);
        let thread = std::thread::spawn(move || {
            for subject in receive {
                peer.wait();
                there(subject);
                done.send(()).unwrap();
            }
        });
        for iteration in 0..iterations {
            let (theirs, ours) = each(iteration);
            send.send(theirs).unwrap();
            barrier.wait();
            stagger(iteration);
            here(ours);
            finished.recv().unwrap();
        }
        drop(send);
        thread.join().unwrap();
    });
}

/// Shifts the two sides of a race against each other a little, differently each time.
fn stagger(iteration: usize) {
    for _ in 0..(iteration % 64) * 8 {
        std::hint::spin_loop();
    }
}
