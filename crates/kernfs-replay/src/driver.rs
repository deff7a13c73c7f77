//! The files of an image that is served.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernfs::{Errno, FileOps, Kind, OpenFlags, OpenOp, ReadOp, ReadyBy, WriteOp};

use crate::image::{Content, Entry, Image};
use crate::serve::Writes;

/// A file whose text is less than a page, or that answers errors.
pub(crate) struct Text(pub(crate) Part);

/// A file of a page or more, at exact offsets: sysfs cuts text off there.
pub(crate) struct Long(pub(crate) Part);

/// A file that never has anything to read.
pub(crate) struct Silent(pub(crate) Part);

/// Which file of which image, and what was written to it.
pub(crate) struct Part {
    image: Arc<Image>,
    index: u32,
    writes: Writes,
    /// Bounded by what sysfs takes at once, or by the size.
    written: Mutex<Option<Box<[u8]>>>,
}

impl FileOps for Text {
    type Open = ();

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.0.open(op)
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        match &*self.0.written() {
            Some(written) => op.push(written),
            None => op.push(self.0.recorded()?),
        }
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let data = op.data();
        let ends_lines = self.0.recorded().is_ok_and(|text| text.ends_with(b"\n"));
        let mut text = data.to_vec();
        if ends_lines && !data.ends_with(b"\n") {
            text.push(b'\n');
        }
        *self.0.written() = Some(text.into());
        Ok(data.len())
    }
}

impl FileOps for Long {
    type Open = ();
    const KIND: Kind = Kind::Binary;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.0.open(op)
    }

    fn read(&self, (): &mut (), op: &mut ReadOp<'_>) -> Result<(), Errno> {
        let written = self.0.written();
        let bytes = match &*written {
            Some(written) => &**written,
            None => self.0.recorded()?,
        };
        let rest = usize::try_from(op.offset()).ok().and_then(|offset| bytes.get(offset..));
        let rest = rest.unwrap_or_default();
        op.push(&rest[..rest.len().min(op.max_len())]);
        Ok(())
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        let mut written = self.0.written();
        let mut bytes = match written.take() {
            Some(written) => written,
            None => self.0.recorded()?.into(),
        };
        // As `sysfs_kf_bin_write`: what is beyond the size is cut off, or refused.
        let start = usize::try_from(op.offset()).unwrap_or(usize::MAX);
        let room = bytes.len().saturating_sub(start);
        let len = op.data().len().min(room);
        if len > 0 {
            bytes[start..start + len].copy_from_slice(&op.data()[..len]);
        }
        *written = Some(bytes);
        if len == 0 && !op.data().is_empty() { Err(Errno::EFBIG) } else { Ok(len) }
    }
}

impl FileOps for Silent {
    type Open = ();
    const KIND: Kind = Kind::Stream;
    const READY: ReadyBy = ReadyBy::Handle;

    fn open(&self, op: &mut OpenOp<'_>) -> Result<(), Errno> {
        self.0.open(op)
    }

    fn read(&self, (): &mut (), _: &mut ReadOp<'_>) -> Result<(), Errno> {
        Err(Errno::EAGAIN)
    }

    fn write(&self, (): &mut (), op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        Ok(op.data().len())
    }
}

impl Part {
    pub(crate) fn new(image: &Arc<Image>, entry: Entry<'_>, writes: Writes) -> Self {
        let index = u32::try_from(entry.at()).expect("an image has less than 2^32 nodes");
        Self { image: Arc::clone(image), index, writes, written: Mutex::new(None) }
    }

    /// The mode was looked at before.
    fn open(&self, op: &OpenOp<'_>) -> Result<(), Errno> {
        if op.flags().contains(OpenFlags::WRITE) && self.writes == Writes::Refused {
            return Err(Errno::EROFS);
        }
        if !op.flags().contains(OpenFlags::READ) {
            return Ok(());
        }
        match self.content() {
            Content::OpenError(errno) => Err(*errno),
            Content::Unread => Err(Errno::EACCES),
            Content::Blocks | Content::Bytes(_) | Content::ReadError(_) => Ok(()),
        }
    }

    fn recorded(&self) -> Result<&[u8], Errno> {
        match self.content() {
            Content::Bytes(bytes) => Ok(bytes),
            Content::ReadError(errno) => Err(*errno),
            // Open for writing only.
            Content::Blocks | Content::OpenError(_) | Content::Unread => Ok(&[]),
        }
    }

    fn content(&self) -> &Content {
        self.image.entry(self.index as usize).content().expect("drivers are those of files")
    }

    fn written(&self) -> MutexGuard<'_, Option<Box<[u8]>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
