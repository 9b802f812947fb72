//! Arguments of command 2: the list of MAC addresses that a target admits.

use super::{AoeError, Args, variable};
use crate::{BufferTooSmall, MacAddr, claim};

/// Bytes of a directive: a reserved one, the command, the MAC address.
pub const MASK_DIRECTIVE_BYTES: usize = 8;
/// The most directives of a frame.
pub const DIRECTIVES_MAX: usize = 255;

const FIXED_BYTES: usize = 4;

/// What is to be done with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskCommand {
    /// 0: read it.
    Read,
    /// 1: carry out the directives.
    Edit,
    /// A number that the protocol does not define.
    Other(u8),
}

impl From<u8> for MaskCommand {
    fn from(command: u8) -> Self {
        match command {
            0 => Self::Read,
            1 => Self::Edit,
            other => Self::Other(other),
        }
    }
}

impl From<MaskCommand> for u8 {
    fn from(command: MaskCommand) -> Self {
        match command {
            MaskCommand::Read => 0,
            MaskCommand::Edit => 1,
            MaskCommand::Other(other) => other,
        }
    }
}

/// Why a directive failed. The E flag stays clear then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskError {
    /// 0: none did.
    None,
    /// 1: for a reason that is not told.
    Unspecified,
    /// 2: the directive is not known.
    BadDirective,
    /// 3: the list is full.
    ListFull,
    /// A number that the protocol does not define.
    Other(u8),
}

impl From<u8> for MaskError {
    fn from(error: u8) -> Self {
        match error {
            0 => Self::None,
            1 => Self::Unspecified,
            2 => Self::BadDirective,
            3 => Self::ListFull,
            other => Self::Other(other),
        }
    }
}

impl From<MaskError> for u8 {
    fn from(error: MaskError) -> Self {
        match error {
            MaskError::None => 0,
            MaskError::Unspecified => 1,
            MaskError::BadDirective => 2,
            MaskError::ListFull => 3,
            MaskError::Other(other) => other,
        }
    }
}

/// What is to be done with one MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectiveCommand {
    /// 0: nothing. An answer to [`MaskCommand::Read`] lists the members with it.
    Nop,
    /// 1: add it.
    Add,
    /// 2: delete it.
    Delete,
    /// A number that the protocol does not define.
    Other(u8),
}

impl From<u8> for DirectiveCommand {
    fn from(command: u8) -> Self {
        match command {
            0 => Self::Nop,
            1 => Self::Add,
            2 => Self::Delete,
            other => Self::Other(other),
        }
    }
}

impl From<DirectiveCommand> for u8 {
    fn from(command: DirectiveCommand) -> Self {
        match command {
            DirectiveCommand::Nop => 0,
            DirectiveCommand::Add => 1,
            DirectiveCommand::Delete => 2,
            DirectiveCommand::Other(other) => other,
        }
    }
}

/// Directives as they lie in a frame, at most [`DIRECTIVES_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskDirectives<'a> {
    bytes: &'a [u8],
}

impl<'a> MaskDirectives<'a> {
    /// No directives.
    pub const EMPTY: Self = Self { bytes: &[] };

    /// Takes bytes that hold directives; `None` when they end inside one, or hold more than [`DIRECTIVES_MAX`].
    #[must_use]
    pub const fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(MASK_DIRECTIVE_BYTES)
            || bytes.len() / MASK_DIRECTIVE_BYTES > DIRECTIVES_MAX
        {
            return None;
        }
        Some(Self { bytes })
    }

    /// Writes `directives` into the caller's `scratch`, to be borrowed from there.
    ///
    /// # Errors
    /// [`BufferTooSmall`] when they take more than `scratch` or are more than [`DIRECTIVES_MAX`].
    pub fn encode(
        directives: &[(DirectiveCommand, MacAddr)],
        scratch: &'a mut [u8],
    ) -> Result<Self, BufferTooSmall> {
        let need_bytes = if directives.len() > DIRECTIVES_MAX {
            usize::MAX
        } else {
            directives.len() * MASK_DIRECTIVE_BYTES
        };
        let bytes = claim(scratch, need_bytes)?;
        for (out, (command, mac)) in bytes.chunks_exact_mut(MASK_DIRECTIVE_BYTES).zip(directives) {
            out[0] = 0;
            out[1] = u8::from(*command);
            out[2..].copy_from_slice(&mac.0);
        }
        Ok(Self { bytes })
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() / MASK_DIRECTIVE_BYTES
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The directives in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (DirectiveCommand, MacAddr)> + use<'a> {
        let (directives, _) = self.bytes.as_chunks::<MASK_DIRECTIVE_BYTES>();
        directives
            .iter()
            .map(|&[_, command, a, b, c, d, e, f]| (command.into(), MacAddr([a, b, c, d, e, f])))
    }
}

/// Meaning of a MAC mask command or of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskRepr<'a> {
    /// What is to be done with the list.
    pub command: MaskCommand,
    /// Whether a directive failed.
    pub error: MaskError,
    /// Number of directives; after an error, the index of the one that failed. Emitted only after an error, else
    /// counted from `directives`.
    pub directive_count: u8,
    /// The directives; none after an error, when the frame says nothing about them.
    pub directives: MaskDirectives<'a>,
}

impl<'a> MaskRepr<'a> {
    /// A request for the list.
    #[must_use]
    pub const fn read() -> Self {
        Self {
            command: MaskCommand::Read,
            error: MaskError::None,
            directive_count: 0,
            directives: MaskDirectives::EMPTY,
        }
    }

    /// A request to carry out `directives`.
    ///
    /// vblade 25 answers it with success and goes on admitting the address, or dies of it: never fence with it.
    #[must_use]
    pub fn edit(directives: MaskDirectives<'a>) -> Self {
        Self {
            command: MaskCommand::Edit,
            error: MaskError::None,
            directive_count: count_byte(directives),
            directives,
        }
    }

    pub(super) fn parse(args: Args<'a>) -> Result<Self, AoeError> {
        let (fields, rest) = args.fixed::<FIXED_BYTES>("MAC mask arguments")?;
        let [_reserved, command, error, directive_count] = fields;
        let error = MaskError::from(error);
        let bytes = if error == MaskError::None {
            let need_bytes = usize::from(directive_count) * MASK_DIRECTIVE_BYTES;
            variable(rest, need_bytes, "MAC mask directives")?
        } else {
            &[]
        };
        Ok(Self {
            command: MaskCommand::from(command),
            error,
            directive_count,
            directives: MaskDirectives { bytes },
        })
    }

    fn emitted_directives(&self) -> MaskDirectives<'a> {
        if self.error == MaskError::None {
            self.directives
        } else {
            MaskDirectives::EMPTY
        }
    }

    pub(super) fn len_bytes(&self) -> usize {
        FIXED_BYTES + self.emitted_directives().bytes.len()
    }

    pub(super) fn emit(&self, out: &mut [u8]) {
        let directives = self.emitted_directives();
        out[0] = 0;
        out[1] = u8::from(self.command);
        out[2] = u8::from(self.error);
        out[3] = if self.error == MaskError::None {
            count_byte(directives)
        } else {
            self.directive_count
        };
        out[FIXED_BYTES..].copy_from_slice(directives.bytes);
    }
}

/// The count as its byte. The view's constructors hold it to [`DIRECTIVES_MAX`].
fn count_byte(directives: MaskDirectives<'_>) -> u8 {
    u8::try_from(directives.len()).unwrap_or(u8::MAX)
}
