//! The six lock modes and what follows from their compatibility.

use core::fmt;

/// How much a lock lets its holder do, and what it forbids everybody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Null: an interest, no right. Beside every mode.
    #[default]
    Nl = 0,
    /// Concurrent read: reads while others write.
    Cr = 1,
    /// Concurrent write: writes while others write.
    Cw = 2,
    /// Protected read: reads, and nobody writes.
    Pr = 3,
    /// Protected write: writes, and nobody else does.
    Pw = 4,
    /// Exclusive: nobody else does anything.
    Ex = 5,
}

impl Mode {
    /// All modes, as VMS numbers them.
    pub const ALL: [Self; 6] = [Self::Nl, Self::Cr, Self::Cw, Self::Pr, Self::Pw, Self::Ex];

    /// The mode of a number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Nl,
            1 => Self::Cr,
            2 => Self::Cw,
            3 => Self::Pr,
            4 => Self::Pw,
            5 => Self::Ex,
            _ => return None,
        })
    }

    /// The strongest mode that may be held beside this one. All that may be are those which it [covers](Self::covers).
    #[must_use]
    pub const fn beside(self) -> Self {
        match self {
            Self::Nl => Self::Ex,
            Self::Cr => Self::Pw,
            Self::Cw => Self::Cw,
            Self::Pr => Self::Pr,
            Self::Pw => Self::Cr,
            Self::Ex => Self::Nl,
        }
    }

    /// Whether both may be held at once by different holders.
    #[must_use]
    pub const fn is_compatible(self, other: Self) -> bool {
        self.beside().covers(other)
    }

    /// Whether who has this mode has all that `other` gives: NL < CR < {CW, PR} < PW < EX.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::Cw, Self::Pr) | (Self::Pr, Self::Cw) => false,
            _ => self as u8 >= other as u8,
        }
    }

    /// The weakest mode that covers both.
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        if self.covers(other) {
            self
        } else if other.covers(self) {
            other
        } else {
            Self::Pw
        }
    }

    /// The strongest mode that both cover.
    #[must_use]
    pub const fn meet(self, other: Self) -> Self {
        if self.covers(other) {
            other
        } else if other.covers(self) {
            self
        } else {
            Self::Cr
        }
    }

    /// Whether its holder may have changed what it protects: CW, PW, EX. The dead keep these until their log is replayed.
    #[must_use]
    pub const fn is_writing(self) -> bool {
        matches!(self, Self::Cw | Self::Pw | Self::Ex)
    }

    /// Whether its holder may write the value block: PW, EX.
    #[must_use]
    pub const fn writes_value(self) -> bool {
        matches!(self, Self::Pw | Self::Ex)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nl => "NL",
            Self::Cr => "CR",
            Self::Cw => "CW",
            Self::Pr => "PR",
            Self::Pw => "PW",
            Self::Ex => "EX",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Mode;

    /// Rows and columns NL, CR, CW, PR, PW, EX; as the VMS manual prints it.
    const MATRIX: [&[u8; 6]; 6] = [
        b"yyyyyy", b"yyyyyn", b"yyynnn", b"yynynn", b"yynnnn", b"ynnnnn",
    ];

    #[test]
    fn every_cell_of_the_matrix() {
        for (row, one) in MATRIX.iter().zip(Mode::ALL) {
            for (cell, other) in row.iter().zip(Mode::ALL) {
                assert_eq!(one.is_compatible(other), *cell == b'y', "{one} {other}");
            }
        }
    }

    #[test]
    fn a_mode_covers_another_if_it_excludes_all_that_the_other_excludes() {
        for one in Mode::ALL {
            for other in Mode::ALL {
                let excludes_more = Mode::ALL
                    .iter()
                    .all(|third| other.is_compatible(*third) || !one.is_compatible(*third));
                assert_eq!(one.covers(other), excludes_more, "{one} {other}");
            }
        }
    }

    #[test]
    fn join_and_meet_are_the_bounds_of_that_order() {
        for one in Mode::ALL {
            for other in Mode::ALL {
                let (join, meet) = (one.join(other), one.meet(other));
                for third in Mode::ALL {
                    let above = third.covers(one) && third.covers(other);
                    assert_eq!(above, third.covers(join), "{one} {other} {third}");
                    let below = one.covers(third) && other.covers(third);
                    assert_eq!(below, meet.covers(third), "{one} {other} {third}");
                }
            }
        }
    }

    #[test]
    fn numbers_name_modes_and_nothing_else() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_u8(mode as u8), Some(mode));
        }
        assert_eq!(Mode::from_u8(6), None);
    }
}
