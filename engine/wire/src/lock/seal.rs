//! What ends a lock frame: a checksum against damage, and by configuration a keyed code against forgery.

use core::fmt;

use siphasher::sip128::{Hash128, SipHasher24};

/// Bytes of the checksum, the last field of every frame.
pub const CRC_BYTES: usize = 4;
/// Bytes of the message authentication code before it, where a key is configured.
pub const MAC_BYTES: usize = 16;

/// The key of the message authentication code, one for the cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MacKey(pub [u8; 16]);

impl fmt::Debug for MacKey {
    /// Keys do not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// How frames are sealed when they are written, and what they must bear to be read.
///
/// The checksum comes as a function because the processor's instruction for it is found out at run time, which takes
/// the standard library; this crate has none.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    crc32c: fn(&[u8]) -> u32,
    key: Option<MacKey>,
}

impl Seal {
    /// A seal by a CRC-32C (Castagnoli) and, if there is a key, SipHash-2-4 of 128 bits.
    #[must_use]
    pub const fn new(crc32c: fn(&[u8]) -> u32, key: Option<MacKey>) -> Self {
        Self { crc32c, key }
    }

    /// Whether frames bear a message authentication code.
    #[must_use]
    pub const fn is_keyed(&self) -> bool {
        self.key.is_some()
    }

    /// Bytes that the seal adds to a frame: 4, or 20 with a key.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        if self.is_keyed() {
            MAC_BYTES + CRC_BYTES
        } else {
            CRC_BYTES
        }
    }

    /// The checksum of these bytes.
    #[must_use]
    pub fn crc(&self, bytes: &[u8]) -> u32 {
        (self.crc32c)(bytes)
    }

    /// The code of these bytes; `None` without a key.
    #[must_use]
    pub fn mac(&self, bytes: &[u8]) -> Option<[u8; MAC_BYTES]> {
        Some(self.hash(bytes)?.as_bytes())
    }

    /// Whether `mac` is the code of these bytes, in a time that does not tell how much of it is right.
    #[must_use]
    pub fn verify(&self, bytes: &[u8], mac: [u8; MAC_BYTES]) -> bool {
        self.hash(bytes)
            .is_some_and(|hash| hash == Hash128::from(u128::from_le_bytes(mac)))
    }

    fn hash(&self, bytes: &[u8]) -> Option<Hash128> {
        let key = self.key.as_ref()?;
        Some(SipHasher24::new_with_key(&key.0).hash(bytes))
    }
}
