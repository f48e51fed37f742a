//! The optional parts of the protocol that a session has in force (PROTOCOL §3).

/// Features that a hello offers or puts in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// IpBundle frames (PROTOCOL §6).
    pub bundle: bool,
    /// Offload headers inside bundles; in force only together with `bundle` (PROTOCOL §6).
    pub offload: bool,
    /// Fresh keys inside a session (PROTOCOL §5).
    pub rekey: bool,
}

impl Features {
    /// No feature: the protocol that both ends always speak.
    pub const NONE: Self = Self { bundle: false, offload: false, rekey: false };

    /// What both ends have: offload only if bundle is there too.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        let bundle = self.bundle && other.bundle;
        Self { bundle, offload: bundle && self.offload && other.offload, rekey: self.rekey && other.rekey }
    }

    /// Their names on the wire, in the order of PROTOCOL §3.
    pub fn names(self) -> Vec<&'static str> {
        [("bundle", self.bundle), ("offload", self.offload), ("rekey", self.rekey)]
            .into_iter()
            .filter_map(|(name, present)| present.then_some(name))
            .collect()
    }

    /// Adds the feature of this name; false if there is none.
    pub(super) fn insert(&mut self, name: &str) -> bool {
        match name {
            "bundle" => self.bundle = true,
            "offload" => self.offload = true,
            "rekey" => self.rekey = true,
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> impl Iterator<Item = Features> {
        (0..8).map(|bits| Features { bundle: bits & 1 != 0, offload: bits & 2 != 0, rekey: bits & 4 != 0 })
    }

    #[test]
    fn an_intersection_is_within_both_and_can_be_in_force() {
        for a in every() {
            for b in every() {
                let both = a.intersection(b);
                assert_eq!(both, b.intersection(a));
                assert_eq!((both.bundle, both.rekey), (a.bundle && b.bundle, a.rekey && b.rekey));
                assert_eq!(both.offload, both.bundle && a.offload && b.offload);
            }
            assert_eq!(a.intersection(Features::NONE), Features::default());
        }
    }

    #[test]
    fn names_go_both_ways() {
        for features in every() {
            let mut read = Features::NONE;
            assert!(features.names().into_iter().all(|name| read.insert(name)));
            assert_eq!(read, features);
        }
        assert!(!Features::default().insert("Bundle"));
    }
}
