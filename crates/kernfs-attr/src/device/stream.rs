//! Who hears of events: streams, each with a limit, that never hold up a device.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use event_listener::{Event, Listener, listener};

use super::lock;
use super::uevent::Uevent;

/// What a stream of events brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// An event.
    Uevent(Arc<Uevent>),
    /// Events were lost because the reader of the stream was too slow: look at everything again.
    Resync,
}

/// The events of the devices of a [`Sysfs`](super::Sysfs) in their order, read by one who may be
/// slow.
///
/// When more than its capacity wait to be read, all of them give way to one
/// [`Announcement::Resync`].
pub struct Uevents {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
}

impl Uevents {
    /// Waits for what comes next; `None` when the sysfs has gone.
    pub fn recv(&mut self) -> Option<Announcement> {
        loop {
            listener!(self.queue.arrived => arrived);
            match self.queue.poll() {
                Some(next) => return next,
                None => arrived.wait(),
            }
        }
    }

    /// Does the same asynchronously.
    pub async fn recv_async(&mut self) -> Option<Announcement> {
        loop {
            listener!(self.queue.arrived => arrived);
            match self.queue.poll() {
                Some(next) => return next,
                None => arrived.await,
            }
        }
    }

    /// Returns what comes next if it is there.
    pub fn try_recv(&mut self) -> Option<Announcement> {
        lock(&self.queue.waiting).pop_front()
    }
}

impl Drop for Uevents {
    fn drop(&mut self) {
        let this = Arc::as_ptr(&self.queue);
        lock(&self.hub.state).queues.retain(|queue| queue.as_ptr() != this);
    }
}

impl fmt::Debug for Uevents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uevents").field("capacity", &self.queue.capacity).finish_non_exhaustive()
    }
}

/// Numbers the events, and puts them into all streams.
#[derive(Default)]
pub(crate) struct Hub {
    /// Held around the lock of one queue, so that all streams have one order.
    state: Mutex<HubState>,
}

#[derive(Default)]
struct HubState {
    seqnum: u64,
    queues: Vec<Weak<Queue>>,
    has_ended: bool,
}

struct Queue {
    capacity: usize,
    waiting: Mutex<VecDeque<Announcement>>,
    arrived: Event,
    has_ended: AtomicBool,
}

impl Hub {
    pub(crate) fn stream(self: &Arc<Self>, capacity: usize) -> Uevents {
        let mut state = lock(&self.state);
        let queue = Arc::new(Queue {
            capacity: capacity.max(1),
            waiting: Mutex::default(),
            arrived: Event::new(),
            has_ended: AtomicBool::new(state.has_ended),
        });
        state.queues.push(Arc::downgrade(&queue));
        drop(state);
        Uevents { hub: Arc::clone(self), queue }
    }

    /// Numbers an event and queues it; whoever waits is woken by [`Wake::wake`], when the caller
    /// holds no lock any more.
    pub(crate) fn push(&self, event: Uevent) -> Wake {
        let mut state = lock(&self.state);
        state.seqnum += 1;
        let event = Arc::new(Uevent { seqnum: state.seqnum, ..event });
        let queues: Vec<_> = state.queues.iter().filter_map(Weak::upgrade).collect();
        for queue in &queues {
            queue.push(&event);
        }
        Wake(queues)
    }

    pub(crate) fn seqnum(&self) -> u64 {
        lock(&self.state).seqnum
    }

    /// Ends all streams, those to come too.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.has_ended = true;
        let queues: Vec<_> = state.queues.iter().filter_map(Weak::upgrade).collect();
        drop(state);
        for queue in &queues {
            queue.has_ended.store(true, Ordering::Release);
        }
        Wake(queues).wake();
    }
}

/// Streams that have something new, whose readers have not been told.
#[must_use = "somebody may wait"]
pub(crate) struct Wake(Vec<Arc<Queue>>);

impl Wake {
    pub(crate) fn wake(self) {
        for queue in self.0 {
            queue.arrived.notify(usize::MAX);
        }
    }
}

impl Queue {
    fn push(&self, event: &Arc<Uevent>) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == self.capacity {
            waiting.clear();
            waiting.push_back(Announcement::Resync);
        } else if waiting.front() != Some(&Announcement::Resync) {
            waiting.push_back(Announcement::Uevent(Arc::clone(event)));
        }
    }

    /// Returns what is there, `Some(None)` at the end of the stream.
    fn poll(&self) -> Option<Option<Announcement>> {
        // In this order: what was pushed before the end is seen.
        let has_ended = self.has_ended.load(Ordering::Acquire);
        match lock(&self.waiting).pop_front() {
            Some(next) => Some(Some(next)),
            None => has_ended.then_some(None),
        }
    }
}
