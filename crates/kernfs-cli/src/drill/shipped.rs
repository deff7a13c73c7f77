//! The scenarios that come along.

use crate::drill::scenario::Scenario;

/// A scenario that comes along.
pub(crate) struct Shipped {
    /// By which it is called.
    pub(crate) name: &'static str,
    /// Its file.
    pub(crate) text: &'static str,
}

/// All of them.
pub(crate) const SHIPPED: [Shipped; 3] = [
    Shipped { name: "pressure-rises", text: include_str!("../../scenarios/pressure-rises.toml") },
    Shipped { name: "group-vanishes", text: include_str!("../../scenarios/group-vanishes.toml") },
    Shipped { name: "members-die", text: include_str!("../../scenarios/members-die.toml") },
];

/// Returns the one of a name.
pub(crate) fn named(name: &str) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|shipped| shipped.name == name)
}

/// Lists them with what they are about.
pub(crate) fn list() -> String {
    let line = |shipped: &Shipped| {
        let about = Scenario::parse(shipped.name, shipped.text).ok().and_then(|it| it.about);
        format!("{:<15} {}\n", shipped.name, about.unwrap_or_default())
    };
    SHIPPED.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_are_well_formed_and_say_what_they_are_about() {
        for shipped in &SHIPPED {
            let scenario = Scenario::parse(shipped.name, shipped.text).unwrap();
            assert!(scenario.about.is_some_and(|about| about.len() < 60), "{}", shipped.name);
        }
        assert_eq!(list().lines().count(), SHIPPED.len());
    }
}
