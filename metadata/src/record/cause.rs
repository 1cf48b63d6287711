//! Why a broker or a partition changed, told with each change so that history can explain itself.

use std::fmt;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a broker or a partition changed. For people and history alone: no rule reads it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(i32)]
        pub enum Cause {
            $($(#[$doc])* $name = $number,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &[Cause] = &[$(Cause::$name,)*];

            /// The persisted number; never reused.
            pub const fn number(self) -> i32 {
                self as i32
            }

            /// The cause with this number; [`Cause::Unknown`] for one of a newer build.
            pub const fn from_number(number: i32) -> Cause {
                match number {
                    $($number => Cause::$name,)*
                    _ => Cause::Unknown,
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Cause::$name => $text,)*
                }
            }
        }
    };
}

causes! {
    /// Written by a build that knows more causes than this one.
    Unknown = 0, "for a reason that this build does not know";
    SessionTimeout = 1, "the broker was not heard of for longer than its session timeout";
    ConnectionClosed = 2, "the broker's process was gone";
    ControlledShutdown = 3, "the broker was shutting down";
    Registration = 4, "a new process of the broker registered";
    /// The broker came back with another data directory, so its replicas there are gone.
    DirectoryLost = 5, "the broker's data directory was replaced";
    Unfenced = 6, "the broker caught up and was unfenced";
    IsrShrink = 7, "a follower fell behind";
    IsrExpand = 8, "a follower caught up";
    PreferredLeader = 9, "leadership returned to the preferred replica";
    UncleanElection = 10, "no in-sync replica was left and the topic allows another to lead";
    /// A leaderless partition found a leader again.
    LeaderElection = 11, "a replica that may lead became available";
    Requested = 12, "a person or a tool asked for it";
    Reassignment = 13, "its replicas were moved";
    /// What the broker had stored was not what had been written; it refills from its peers.
    ReplicaDamaged = 14, "the broker found its copy damaged and set it aside";
    /// The broker has served under a later epoch than the last that its directory knows of.
    DirectoryOutdated = 15, "the broker's data directory was replaced by an older copy of it";
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_a_newer_one_is_unknown() {
        for (position, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(cause.number(), position as i32);
            assert_eq!(Cause::from_number(cause.number()), *cause);
        }
        assert_eq!(Cause::from_number(999), Cause::Unknown);
    }
}
