//! What a single file does: values, computed values, actions.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::{Errno, Notifier, Ops, ReadOp, WriteOp};

use crate::value::{Shown, Value, emit, in_range, written};

/// Something that can be a file: a field of a [group](crate::Attributes), or a
/// [file of its own](crate::DirExt::add_attr).
///
/// There are ready ones: [`Attr`], [`Computed`], [`Action`], [`Binary`](crate::Binary), and any
/// [`Shown`] value as a constant. Whether clients can read and write it is the decision of the mode
/// with which it is added, as long as [`Readable`] and [`Writable`] allow it.
pub trait Attribute: Send + Sync {
    /// Returns what can be done with it: reading, writing.
    fn ops(&self) -> Ops;

    /// Returns the size in bytes of contents at offsets; `None` for text.
    fn size(&self) -> Option<u64> {
        None
    }

    /// Answers a read.
    ///
    /// # Errors
    ///
    /// Whatever the client's read(2) shall answer.
    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let _ = op;
        Err(Errno::EINVAL)
    }

    /// Takes a write, and returns how many bytes of it were used.
    ///
    /// # Errors
    ///
    /// Whatever the client's write(2) shall answer.
    fn store(&self, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let _ = op;
        Err(Errno::EINVAL)
    }

    /// Takes the notifier of the file that it has become; `None` when it is a file no more.
    fn bind(&self, notifier: Option<Notifier>) {
        let _ = notifier;
    }
}

/// An attribute that clients can read.
#[diagnostic::on_unimplemented(
    message = "clients cannot read `{Self}`",
    label = "this field is to be readable",
    note = "make it an `Attr`, or give `show = Self::METHOD`; what clients can only write is `wo`"
)]
pub trait Readable: Attribute {}

/// An attribute that clients can write.
#[diagnostic::on_unimplemented(
    message = "clients cannot write `{Self}`",
    label = "this field is to be writable",
    note = "make it an `Attr`, or give `store = Self::METHOD`; what clients can only read is `ro`"
)]
pub trait Writable: Attribute {}

/// An attribute that checks each value before it takes it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` holds no value that could be checked",
    label = "`range` and `store` need a field that holds a value",
    note = "an `Attr` or an `Action` holds one"
)]
pub trait Checked: Writable {
    /// What is written to it.
    type Value: Value;

    /// Takes a write if `check` agrees to the value.
    ///
    /// # Errors
    ///
    /// What `check` says; else as for [`Attribute::store`].
    fn store_checked(
        &self,
        op: &mut WriteOp<'_>,
        check: &dyn Fn(&Self::Value) -> Result<(), Errno>,
    ) -> Result<usize, Errno>;
}

/// A constant: what is shown never changes.
impl<T: Shown + Send + Sync> Attribute for T {
    fn ops(&self) -> Ops {
        Ops::READ
    }

    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        emit(op, self);
        Ok(())
    }
}

impl<T: Shown + Send + Sync> Readable for T {}

/// A value that clients read, that the owner sets, and that clients may set too.
///
/// Readers see one value or the next, never a mixture. [`set`](Self::set) wakes who polls the file;
/// what a client writes does not, as in sysfs: [`notify`](Self::notify) does.
///
/// # Examples
///
/// ```
/// use kernfs::{Caller, Errno, Mode, OpenFlags, Tree};
/// use kernfs_attr::{Attr, DirExt};
///
/// let tree = Tree::new();
/// let target = Attr::new(1200u32).range(0..=5000);
/// let target = tree.root().add_attr("target", Mode::RW, target)?;
/// let file = tree.client(Caller::OWNER).open("/target", OpenFlags::READ_WRITE)?;
/// file.write(b"0x7d0\n")?;
/// assert_eq!(target.get(), 2000);
/// assert_eq!(file.write(b"9000"), Err(Errno::ERANGE));
/// assert_eq!(file.write(b"fast"), Err(Errno::EINVAL));
/// target.set(2100); // whoever polls the file wakes
/// assert_eq!(file.read_to_string()?, "2100\n");
/// assert_eq!(target.remove()?.into_inner(), 2100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Attr<T> {
    state: Mutex<State<T>>,
    checks: Vec<Check<T>>,
}

struct State<T> {
    /// Shared with operations, which render and compare without the lock.
    value: Arc<T>,
    notifier: Option<Notifier>,
}

type Check<T> = Box<dyn Fn(&T) -> Result<(), Errno> + Send + Sync>;

impl<T> Attr<T> {
    /// Takes the first value.
    #[must_use]
    pub fn new(value: T) -> Self {
        let state = State { value: Arc::new(value), notifier: None };
        Self { state: Mutex::new(state), checks: Vec::new() }
    }

    /// Lets clients write only what is in the range; anything else is ERANGE.
    #[must_use]
    pub fn range(self, range: impl RangeBounds<T> + Send + Sync + 'static) -> Self
    where
        T: PartialOrd,
    {
        self.on_store(move |value| in_range(value, &range))
    }

    /// Asks `check` before a value that a client writes is taken; an error is the client's answer.
    ///
    /// Called without a lock, in the order in which checks were added, so that it can also be where
    /// a new value takes effect.
    #[must_use]
    pub fn on_store(
        mut self,
        check: impl Fn(&T) -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Returns the value.
    #[must_use]
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.with(T::clone)
    }

    /// Looks at the value; no lock is held meanwhile.
    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.snapshot())
    }

    /// Sets the value, whatever the range, and wakes who waits for a change (`sysfs_notify`).
    pub fn set(&self, value: T) {
        self.put(Arc::new(value));
        self.notify();
    }

    /// Makes the next value of the one that there is, and sets it.
    ///
    /// `next` is called again if another value came in between, so that no change is lost.
    pub fn update(&self, mut next: impl FnMut(&T) -> T) {
        loop {
            let value = self.snapshot();
            let new = Arc::new(next(&value));
            let mut state = self.lock();
            if Arc::ptr_eq(&state.value, &value) {
                let old = std::mem::replace(&mut state.value, new);
                drop(state);
                drop(old);
                return self.notify();
            }
        }
    }

    /// Wakes who waits for a change, and lets readers who have the text look again.
    pub fn notify(&self) {
        let notifier = self.lock().notifier.clone();
        if let Some(notifier) = notifier {
            notifier.notify();
        }
    }

    /// Returns the value in the end.
    #[must_use]
    pub fn into_inner(self) -> T {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match Arc::into_inner(state.value) {
            Some(value) => value,
            None => unreachable!("snapshots borrow the attribute"),
        }
    }

    fn snapshot(&self) -> Arc<T> {
        Arc::clone(&self.lock().value)
    }

    fn put(&self, value: Arc<T>) {
        let old = std::mem::replace(&mut self.lock().value, value);
        // Not under the lock: it may be the last reference, and the drop is the user's.
        drop(old);
    }

    /// No code of users runs under the lock, so that a poisoned one is as good as any other.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Value + Send + Sync> Attribute for Attr<T> {
    fn ops(&self) -> Ops {
        Ops::READ | Ops::WRITE
    }

    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        emit(op, &*self.snapshot());
        Ok(())
    }

    fn store(&self, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.store_checked(op, &|_| Ok(()))
    }

    fn bind(&self, notifier: Option<Notifier>) {
        let old = std::mem::replace(&mut self.lock().notifier, notifier);
        drop(old);
    }
}

impl<T: Value + Send + Sync> Readable for Attr<T> {}

impl<T: Value + Send + Sync> Writable for Attr<T> {}

impl<T: Value + Send + Sync> Checked for Attr<T> {
    type Value = T;

    fn store_checked(
        &self,
        op: &mut WriteOp<'_>,
        check: &dyn Fn(&T) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        store_text(op, |text| {
            let value = self.snapshot().parse_over(text)?;
            self.checks.iter().try_for_each(|check| check(&value))?;
            check(&value)?;
            self.put(Arc::new(value));
            Ok(())
        })
    }
}

impl<T> From<T> for Attr<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Default> Default for Attr<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Attr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|value| f.debug_tuple("Attr").field(value).finish())
    }
}

/// A value that a function computes at each read.
///
/// # Examples
///
/// ```
/// use kernfs::{Caller, Mode, OpenFlags, Tree};
/// use kernfs_attr::{Computed, DirExt};
///
/// let tree = Tree::new();
/// let cpus = Computed::new(|| Ok(std::thread::available_parallelism().map_or(1, usize::from)));
/// let _cpus = tree.root().add_attr("cpus", Mode::RO, cpus)?;
/// let file = tree.client(Caller::OWNER).open("/cpus", OpenFlags::READ)?;
/// assert!(file.read_to_string()?.trim().parse::<usize>()? > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Computed<T>(Compute<T>);

type Compute<T> = Box<dyn Fn() -> Result<T, Errno> + Send + Sync>;

impl<T: Shown> Computed<T> {
    /// Takes the function; an error is the client's answer, for example ENODATA.
    #[must_use]
    pub fn new(compute: impl Fn() -> Result<T, Errno> + Send + Sync + 'static) -> Self {
        Self(Box::new(compute))
    }
}

impl<T: Shown> Attribute for Computed<T> {
    fn ops(&self) -> Ops {
        Ops::READ
    }

    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        emit(op, &(self.0)()?);
        Ok(())
    }
}

impl<T: Shown> Readable for Computed<T> {}

impl<T> fmt::Debug for Computed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computed").finish_non_exhaustive()
    }
}

/// Something that happens when clients write; nothing can be read.
///
/// # Examples
///
/// ```
/// use kernfs::{Caller, Errno, Mode, OpenFlags, Tree};
/// use kernfs_attr::{Action, DirExt};
///
/// let tree = Tree::new();
/// let reset = Action::new(|now: &bool| if *now { Ok(()) } else { Err(Errno::EBUSY) });
/// let _reset = tree.root().add_attr("reset", Mode::WO, reset)?;
/// let file = tree.client(Caller::OWNER).open("/reset", OpenFlags::WRITE)?;
/// assert_eq!(file.write(b"1\n"), Ok(2));
/// assert_eq!(file.write(b"0\n"), Err(Errno::EBUSY));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Action<T>(Check<T>);

impl<T: Value> Action<T> {
    /// Takes the function; an error is the client's answer.
    #[must_use]
    pub fn new(act: impl Fn(&T) -> Result<(), Errno> + Send + Sync + 'static) -> Self {
        Self(Box::new(act))
    }
}

impl<T: Value> Attribute for Action<T> {
    fn ops(&self) -> Ops {
        Ops::WRITE
    }

    fn store(&self, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.store_checked(op, &|_| Ok(()))
    }
}

impl<T: Value> Writable for Action<T> {}

impl<T: Value> Checked for Action<T> {
    type Value = T;

    fn store_checked(
        &self,
        op: &mut WriteOp<'_>,
        check: &dyn Fn(&T) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        store_with(op, |value| {
            check(value)?;
            (self.0)(value)
        })
    }
}

impl<T> fmt::Debug for Action<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Action").finish_non_exhaustive()
    }
}

/// Parses what was written and hands it to a function, as [`store_text`] does.
///
/// # Errors
///
/// Those of the parser and of the function.
pub(crate) fn store_with<T: Value>(
    op: &WriteOp<'_>,
    act: impl FnOnce(&T) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    store_text(op, |text| act(&T::parse(text)?))
}

/// Hands what was written to a function; a write of nothing does nothing, as in sysfs.
fn store_text(
    op: &WriteOp<'_>,
    act: impl FnOnce(&str) -> Result<(), Errno>,
) -> Result<usize, Errno> {
    if op.data().is_empty() {
        return Ok(0);
    }
    act(written(op)?)?;
    Ok(op.data().len())
}
