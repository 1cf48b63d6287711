//! Positions in a partition's log and in the metadata log.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default,
        )]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            pub const ZERO: $name = $name(0);

            /// The position after this one.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0 + 1)
            }
        }

        impl Add<i64> for $name {
            type Output = $name;

            fn add(self, count: i64) -> $name {
                $name(self.0 + count)
            }
        }

        impl AddAssign<i64> for $name {
            fn add_assign(&mut self, count: i64) {
                self.0 += count;
            }
        }

        impl Sub<$name> for $name {
            type Output = i64;

            fn sub(self, other: $name) -> i64 {
                self.0 - other.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<$name, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

offset!(
    /// The position of a record in a partition's log. An *end* offset is exclusive: the position
    /// of the next record to be written.
    Offset
);
offset!(
    /// The position of a record in the metadata log. An image's offset is exclusive: the position
    /// of the next record to be replayed.
    MetadataOffset
);
