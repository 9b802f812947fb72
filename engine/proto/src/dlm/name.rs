//! Names of resources: a lockspace, a type, and a key, in 16 bytes.

use core::hash::Hasher;

use sandrail_wire::lock::ResourceName;
use siphasher::sip128::{Hasher128, SipHasher24};

/// The longest key that stands in a name as it is.
pub const KEY_BYTES_MAX: usize = 12;
/// The most types of a lockspace's resources; the upper half of the byte marks hashed keys.
pub const KINDS_MAX: u8 = 128;

const HASHED: u8 = 0x80;

/// Why there is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The key does not fit as it is. [`hashed_name`] takes keys of any length.
    #[error("a key of {0} bytes, more than {KEY_BYTES_MAX}")]
    KeyTooLong(usize),
    /// There is no such type.
    #[error("type {0} is not below {KINDS_MAX}")]
    Kind(u8),
}

/// The name of a resource with a short key: two bytes of the lockspace, one of the type, one of the key's length, the key.
///
/// # Errors
/// If the key is longer than [`KEY_BYTES_MAX`], or the type not below [`KINDS_MAX`].
pub fn short_name(lockspace: u16, kind: u8, key: &[u8]) -> Result<ResourceName, NameError> {
    let mut name = begin(lockspace, kind)?;
    let too_long = NameError::KeyTooLong(key.len());
    let length = u8::try_from(key.len()).map_err(|_| too_long)?;
    let room = name.0[4..].get_mut(..key.len()).ok_or(too_long)?;
    room.copy_from_slice(key);
    name.0[3] = length;
    Ok(name)
}

/// The name of a resource with a key of any length, of which 104 bits of a keyed hash (SipHash-2-4-128) stand in the name:
/// whoever does not know the cluster's hash key cannot make two keys meet. Two that meet by chance share a lock, which costs
/// time and is otherwise harmless.
///
/// # Errors
/// If the type is not below [`KINDS_MAX`].
pub fn hashed_name(
    lockspace: u16,
    kind: u8,
    key: &[u8],
    hash_key: &[u8; 16],
) -> Result<ResourceName, NameError> {
    let mut name = begin(lockspace, kind)?;
    let mut hasher = SipHasher24::new_with_key(hash_key);
    hasher.write(key);
    let hash = hasher.finish128().as_bytes();
    name.0[2] |= HASHED;
    name.0[3..].copy_from_slice(&hash[..13]);
    Ok(name)
}

fn begin(lockspace: u16, kind: u8) -> Result<ResourceName, NameError> {
    if kind >= KINDS_MAX {
        return Err(NameError::Kind(kind));
    }
    let mut name = ResourceName::default();
    name.0[..2].copy_from_slice(&lockspace.to_be_bytes());
    name.0[2] = kind;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_short_name() {
        let name = short_name(0x0102, 3, b"page 77").unwrap();
        assert_eq!(&name.0, b"\x01\x02\x03\x07page 77\0\0\0\0\0");
    }

    #[test]
    fn keys_that_differ_in_trailing_zeroes_have_other_names() {
        let one = short_name(1, 1, b"a").unwrap();
        let other = short_name(1, 1, b"a\0").unwrap();
        assert_ne!(one, other);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(short_name(1, 127, &[7; 12]).is_ok());
        assert_eq!(short_name(1, 1, &[7; 13]), Err(NameError::KeyTooLong(13)));
        assert_eq!(short_name(1, 1, &[7; 300]), Err(NameError::KeyTooLong(300)));
        assert_eq!(short_name(1, 128, &[]), Err(NameError::Kind(128)));
        assert_eq!(
            hashed_name(1, 200, &[], &[0; 16]),
            Err(NameError::Kind(200))
        );
    }

    #[test]
    fn a_hash_depends_on_key_and_secret_and_is_never_a_short_name() {
        let one = hashed_name(1, 1, b"a long key, longer than twelve", &[1; 16]).unwrap();
        let other = hashed_name(1, 1, b"a long key, longer than twelvE", &[1; 16]).unwrap();
        let secret = hashed_name(1, 1, b"a long key, longer than twelve", &[2; 16]).unwrap();
        assert_ne!(one, other);
        assert_ne!(one, secret);
        assert_eq!(one.0[2], 0x81);
    }
}
