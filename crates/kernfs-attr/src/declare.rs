//! What a group declares of its files: a table, which `#[derive(Attributes)]` writes.

use std::fmt::{self, Write};
use std::sync::Arc;

use kernfs::{Errno, Mode, Notifier, Ops, ReadOp, WriteOp};

use crate::attr::Attribute;
use crate::contents::AnyGroup;

/// A group of files that belong to one object (`attribute_group`).
///
/// `#[derive(Attributes)]` implements it for a struct; see [there](derive@crate::Attributes).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no group of files",
    note = "derive `Attributes` for it, or make it a file by `#[attr(...)]`"
)]
pub trait Attributes: Send + Sync + Sized + 'static {
    /// The files and subdirectories, in the order in which they come to be.
    const ENTRIES: &'static [Entry<Self>];

    /// Tells whether the group is there at all (`SYSFS_GROUP_INVISIBLE`).
    fn is_visible(&self) -> bool {
        true
    }
}

/// A group without files, for devices that have none of their own.
impl Attributes for () {
    const ENTRIES: &'static [Entry<()>] = &[];
}

/// A file or a group in a group.
pub struct Entry<S: 'static> {
    pub(crate) name: &'static str,
    pub(crate) is_visible: Option<fn(&S) -> bool>,
    description: &'static str,
    pub(crate) kind: EntryKind<S>,
}

pub(crate) enum EntryKind<S: 'static> {
    File(FileEntry<S>),
    Group {
        part: fn(&Part<S>) -> Subgroup,
        describe: fn(&mut fmt::Formatter<'_>, &str) -> fmt::Result,
        /// Whether its files are those of the group that it is in.
        flat: bool,
    },
}

pub(crate) struct FileEntry<S: 'static> {
    pub(crate) mode: Mode,
    pub(crate) calls: Calls<S>,
    unit: &'static str,
    range: &'static str,
}

/// How a file reaches what it shows.
pub(crate) struct Calls<S: 'static> {
    /// `None` where `show` and `store` do everything.
    attribute: Option<fn(&S) -> &dyn Attribute>,
    show: Option<ShowFn<S>>,
    store: Option<StoreFn<S>>,
}

type ShowFn<S> = fn(&S, &mut ReadOp<'_>) -> Result<(), Errno>;
type StoreFn<S> = fn(&S, &mut WriteOp<'_>) -> Result<usize, Errno>;

impl<S> Clone for Calls<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Calls<S> {}

impl<S> Entry<S> {
    /// Declares a file; what it does is said by the functions below.
    #[must_use]
    pub const fn file(name: &'static str, mode: Mode) -> Self {
        let calls = Calls { attribute: None, show: None, store: None };
        let file = FileEntry { mode, calls, unit: "", range: "" };
        Self { name, is_visible: None, description: "", kind: EntryKind::File(file) }
    }

    /// Declares a subdirectory with a group that is a part of this one.
    #[must_use]
    pub const fn group<T: Attributes>(name: &'static str, part: fn(&Part<S>) -> Subgroup) -> Self {
        let kind = EntryKind::Group { part, describe: describe_entries::<T>, flat: false };
        Self { name, is_visible: None, description: "", kind }
    }

    /// Declares a group whose files are those of this one (a group without a name).
    #[must_use]
    pub const fn flat_group<T: Attributes>(part: fn(&Part<S>) -> Subgroup) -> Self {
        let kind = EntryKind::Group { part, describe: describe_entries::<T>, flat: true };
        Self { name: "", is_visible: None, description: "", kind }
    }

    /// Says which attribute the file is.
    #[must_use]
    pub const fn attribute(self, attribute: fn(&S) -> &dyn Attribute) -> Self {
        self.with_file(Calls { attribute: Some(attribute), show: None, store: None }, None, None)
    }

    /// Says what answers reads, instead of the attribute.
    #[must_use]
    pub const fn show(self, show: fn(&S, &mut ReadOp<'_>) -> Result<(), Errno>) -> Self {
        self.with_file(Calls { attribute: None, show: Some(show), store: None }, None, None)
    }

    /// Says what takes writes, instead of the attribute.
    #[must_use]
    pub const fn store(self, store: fn(&S, &mut WriteOp<'_>) -> Result<usize, Errno>) -> Self {
        self.with_file(Calls { attribute: None, show: None, store: Some(store) }, None, None)
    }

    /// Says in which unit the value is, for descriptions; it is not shown.
    #[must_use]
    pub const fn unit(self, unit: &'static str) -> Self {
        self.with_file(Calls { attribute: None, show: None, store: None }, Some(unit), None)
    }

    /// Says which range is taken, for descriptions.
    #[must_use]
    pub const fn range(self, range: &'static str) -> Self {
        self.with_file(Calls { attribute: None, show: None, store: None }, None, Some(range))
    }

    /// Describes it.
    #[must_use]
    pub const fn describe(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Says when it is there (`is_visible`).
    #[must_use]
    pub const fn visible(mut self, is_visible: fn(&S) -> bool) -> Self {
        self.is_visible = Some(is_visible);
        self
    }

    /// Returns the name; empty for a group without one.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the mode of a file; `None` for a group.
    #[must_use]
    pub const fn mode(&self) -> Option<Mode> {
        match &self.kind {
            EntryKind::File(file) => Some(file.mode),
            EntryKind::Group { .. } => None,
        }
    }

    /// Returns the description.
    #[must_use]
    pub const fn description(&self) -> &'static str {
        self.description
    }

    /// Takes those of the parts of a file that are given; a group has none.
    const fn with_file(
        mut self,
        calls: Calls<S>,
        unit: Option<&'static str>,
        range: Option<&'static str>,
    ) -> Self {
        if let EntryKind::File(file) = &mut self.kind {
            if calls.attribute.is_some() {
                file.calls.attribute = calls.attribute;
            }
            if calls.show.is_some() {
                file.calls.show = calls.show;
            }
            if calls.store.is_some() {
                file.calls.store = calls.store;
            }
            if let Some(unit) = unit {
                file.unit = unit;
            }
            if let Some(range) = range {
                file.range = range;
            }
        }
        self
    }
}

impl<S> fmt::Debug for Entry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).field("mode", &self.mode()).finish()
    }
}

impl<S> Calls<S> {
    pub(crate) fn of(attribute: fn(&S) -> &dyn Attribute) -> Self {
        Self { attribute: Some(attribute), show: None, store: None }
    }

    /// Returns what can be done with the file.
    pub(crate) fn ops(&self, whole: &S) -> Ops {
        let mut ops = self.attribute.map_or(Ops::empty(), |attribute| attribute(whole).ops());
        ops.set(Ops::READ, ops.contains(Ops::READ) || self.show.is_some());
        ops.set(Ops::WRITE, ops.contains(Ops::WRITE) || self.store.is_some());
        ops
    }

    /// Returns the size of contents at offsets.
    pub(crate) fn size(&self, whole: &S) -> Option<u64> {
        // Functions of one's own are about text.
        let attribute = self.attribute.filter(|_| self.show.is_none() && self.store.is_none());
        attribute.and_then(|attribute| attribute(whole).size())
    }

    pub(crate) fn show(&self, whole: &S, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        match (self.show, self.attribute) {
            (Some(show), _) => show(whole, op),
            (None, Some(attribute)) => attribute(whole).show(op),
            (None, None) => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn store(&self, whole: &S, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        match (self.store, self.attribute) {
            (Some(store), _) => store(whole, op),
            (None, Some(attribute)) => attribute(whole).store(op),
            (None, None) => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn bind(&self, whole: &S, notifier: Option<Notifier>) {
        if let Some(attribute) = self.attribute {
            attribute(whole).bind(notifier);
        }
    }
}

/// A reference to a group, or to a group that is a part of another, which keeps the whole.
pub struct Part<S: ?Sized>(Arc<dyn Holds<S>>);

trait Holds<S: ?Sized>: Send + Sync {
    fn held(&self) -> &S;
}

/// What a [`Part`] is at the top.
pub(crate) struct Whole<S>(pub(crate) S);

impl<S: Send + Sync> Holds<S> for Whole<S> {
    fn held(&self) -> &S {
        &self.0
    }
}

/// A part of a part.
struct Within<S: 'static, T: 'static> {
    outer: Part<S>,
    inner: fn(&S) -> &T,
}

impl<S, T> Holds<T> for Within<S, T> {
    fn held(&self) -> &T {
        (self.inner)(self.outer.held())
    }
}

impl<S: Send + Sync + 'static> Part<S> {
    pub(crate) fn whole(whole: &Arc<Whole<S>>) -> Self {
        Self(Arc::clone(whole) as Arc<dyn Holds<S>>)
    }
}

impl<S: 'static> Part<S> {
    pub(crate) fn held(&self) -> &S {
        self.0.held()
    }

    /// Returns a group that is a part of this one.
    fn within<T: 'static>(&self, inner: fn(&S) -> &T) -> Part<T> {
        Part(Arc::new(Within { outer: self.clone(), inner }))
    }
}

impl<S: ?Sized> Clone for Part<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: ?Sized> fmt::Debug for Part<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").finish_non_exhaustive()
    }
}

/// A group of any type in a group, with the whole that it is a part of.
pub struct Subgroup(pub(crate) Box<dyn AnyGroup>);

impl Subgroup {
    /// Says which part of a group it is.
    #[must_use]
    pub fn new<S: 'static, T: Attributes>(outer: &Part<S>, inner: fn(&S) -> &T) -> Self {
        Self(Box::new(outer.within(inner)))
    }
}

impl fmt::Debug for Subgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subgroup").finish_non_exhaustive()
    }
}

/// Describes a group, and each file in it, in the format of `Documentation/ABI`.
///
/// `path` is where it is, for example `/sys/class/hwmon/hwmonX`. The descriptions are the doc
/// comments of the fields.
///
/// # Examples
///
/// ```
/// use kernfs_attr::{Attr, Attributes, describe};
///
/// #[derive(Attributes)]
/// struct Fan {
///     /// How fast it shall be.
///     #[attr(rw, range = 0..=5000, unit = "rpm")]
///     target: Attr<u32>,
/// }
///
/// let text = describe::<Fan>("/sys/class/fan/fanX").to_string();
/// assert_eq!(text, "\
/// What:\t\t/sys/class/fan/fanX/target
/// Access:\t\t0644
/// Unit:\t\trpm
/// Valid values:\t0..=5000
/// Description:\tHow fast it shall be.
///
/// ");
/// ```
#[must_use]
pub fn describe<S: Attributes>(path: &str) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| describe_entries::<S>(f, path))
}

fn describe_entries<S: Attributes>(f: &mut fmt::Formatter<'_>, path: &str) -> fmt::Result {
    for entry in S::ENTRIES {
        match &entry.kind {
            EntryKind::Group { describe, flat: true, .. } => describe(f, path)?,
            EntryKind::Group { describe, .. } => describe(f, &format!("{path}/{}", entry.name))?,
            EntryKind::File(file) => {
                writeln!(f, "What:\t\t{path}/{}", entry.name)?;
                writeln!(f, "Access:\t\t{:04o}", file.mode.bits())?;
                for (key, text) in [("Unit:\t\t", file.unit), ("Valid values:\t", file.range)] {
                    if !text.is_empty() {
                        writeln!(f, "{key}{text}")?;
                    }
                }
                let mut lines = entry.description.lines();
                writeln!(f, "Description:\t{}", lines.next().unwrap_or_default())?;
                for line in lines {
                    writeln!(f, "\t\t{line}")?;
                }
                f.write_char('\n')?;
            }
        }
    }
    Ok(())
}
