//! What the subjects of this library need of a tree of groups: one in small ([`Groups`]), or the
//! hierarchy of `kernfs-cgroup` ([`Cgroups`]).
//!
//! [`Groups`]: crate::fixture::Groups
//! [`Cgroups`]: crate::cgroups::Cgroups

use std::time::Duration;

use kernfs::Tree;

use crate::subject::{Attribute, Needs, Sys, errno};

/// The owner's side of a tree whose directories are groups; paths are those of the tree.
#[allow(unused_variables, reason = "the defaults refuse")]
pub(crate) trait GroupTree: Send + Sync {
    /// Returns what it is, for the report.
    fn name(&self) -> &'static str;

    fn tree(&self) -> &Tree;

    /// Returns which needs it meets, besides those that all such trees meet.
    fn can(&self) -> Needs;

    /// Puts a member into a group, or takes it out.
    fn populate(&self, path: &str, is_populated: bool) -> Sys<()>;

    /// Lets members of a group contend for a processor, or no longer.
    fn load(&self, path: &str, is_loaded: bool) -> Sys<()>;

    /// Lets time pass, and triggers fire in it.
    fn pass(&self, time: Duration);

    fn time(&self) -> Duration;

    /// Counts the triggers that are set on all groups there ever were.
    fn triggers(&self) -> usize;

    /// Returns the name of the directory of the pressure files of the whole system.
    fn system(&self) -> Sys<&'static str> {
        Err(errno::ENOSYS)
    }

    /// Makes a fresh file that comes and goes with a controller.
    fn attribute(&self) -> Sys<Attribute> {
        Err(errno::ENOSYS)
    }

    fn set_present(&self, attribute: &Attribute, is_present: bool) -> Sys<()> {
        Err(errno::ENOSYS)
    }
}

/// The needs that all such trees meet.
pub(crate) const NEEDS: Needs = Needs::CGROUPS
    .union(Needs::MEMBERS)
    .union(Needs::PRESSURE_FILES)
    .union(Needs::LOAD)
    .union(Needs::HANDLES);
