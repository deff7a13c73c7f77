//! Drivers whose type says what they implement, so that a file has no operation that it must not
//! have.

use kernfs::{Errno, FileOps, FileOptions, Kind, Mode, OpenOp, Ops, ReadOp, WriteOp};

/// Something that can be read and written, as far as [`Shape`] says so.
pub(crate) trait Serve: Send + Sync {
    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno>;
    fn store(&self, op: &mut WriteOp<'_>) -> Result<usize, Errno>;
}

/// Where a file is added: a directory, or a scope, whose drivers may borrow.
pub(crate) trait Install<'a> {
    /// What the owner gets.
    type Installed;

    fn install<T: FileOps + 'a>(
        self,
        options: FileOptions,
        driver: T,
    ) -> Result<Self::Installed, Errno>;
}

/// What a file is.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) mode: Mode,
    pub(crate) ops: Ops,
    /// The size of contents at offsets; `None` for text.
    pub(crate) size: Option<u64>,
}

/// Returns what a mode allows somebody.
pub(crate) fn allowed(mode: Mode) -> Ops {
    let mut ops = Ops::empty();
    ops.set(Ops::READ, mode.bits() & 0o444 != 0);
    ops.set(Ops::WRITE, mode.bits() & 0o222 != 0);
    ops
}

const READ: u8 = Ops::READ.bits();
const WRITE: u8 = Ops::WRITE.bits();
const READ_WRITE: u8 = READ | WRITE;

/// Adds a file with the driver that has its operations, and no others.
///
/// # Errors
///
/// EINVAL: it can be neither read nor written. Else as for [`kernfs::Dir::add_file`].
pub(crate) fn install<'a, H: Serve + 'a, I: Install<'a>>(
    shape: Shape,
    serve: H,
    to: I,
) -> Result<I::Installed, Errno> {
    let Shape { mode, ops, size } = shape;
    let options = size.into_iter().fold(FileOptions::new(mode), FileOptions::size);
    match (ops.bits(), size.is_some()) {
        (READ, false) => to.install(options, Driver::<H, READ, false>(serve)),
        (WRITE, false) => to.install(options, Driver::<H, WRITE, false>(serve)),
        (READ_WRITE, false) => to.install(options, Driver::<H, READ_WRITE, false>(serve)),
        (READ, true) => to.install(options, Driver::<H, READ, true>(serve)),
        (WRITE, true) => to.install(options, Driver::<H, WRITE, true>(serve)),
        (READ_WRITE, true) => to.install(options, Driver::<H, READ_WRITE, true>(serve)),
        _ => Err(Errno::EINVAL),
    }
}

struct Driver<H, const OPS: u8, const BINARY: bool>(H);

impl<H: Serve, const OPS: u8, const BINARY: bool> FileOps for Driver<H, OPS, BINARY> {
    type Open = ();
    const KIND: Kind = if BINARY { Kind::Binary } else { Kind::Text };
    const OPS: Ops = Ops::from_bits_truncate(OPS);

    fn open(&self, _: &mut OpenOp<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.0.show(op)
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.0.store(op)
    }
}
