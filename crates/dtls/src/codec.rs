//! Big-endian numbers and length-prefixed vectors, as TLS writes them (RFC 5246 section 4).

/// Reads from the front of a slice. `None` means that it was too short.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u24(&mut self) -> Option<usize> {
        self.array()
            .map(|[a, b, c]| (usize::from(a) << 16) | (usize::from(b) << 8) | usize::from(c))
    }

    pub(crate) fn u48(&mut self) -> Option<u64> {
        self.array()
            .map(|[a, b, c, d, e, f]| u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// A vector with one byte of length.
    pub(crate) fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// A vector with two bytes of length.
    pub(crate) fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

pub(crate) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend(value.to_be_bytes());
}

/// Writes the lower three bytes; lengths of messages are far below 2^24.
pub(crate) fn put_u24(out: &mut Vec<u8>, value: usize) {
    let [.., a, b, c] = value.to_be_bytes();
    out.extend([a, b, c]);
}

/// Writes the lower six bytes; record sequences end at 2^48 - 1.
pub(crate) fn put_u48(out: &mut Vec<u8>, value: u64) {
    out.extend(&value.to_be_bytes()[2..]);
}

/// Writes a vector of at most 255 bytes.
pub(crate) fn put_vec8(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).expect("our own short vectors"));
    out.extend(bytes);
}

/// Writes a vector of at most 65,535 bytes.
pub(crate) fn put_vec16(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u16(out, u16::try_from(bytes.len()).expect("our own short vectors"));
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut out = Vec::new();
        put_u16(&mut out, 0xfefd);
        put_u24(&mut out, 0x01_0203);
        put_u48(&mut out, (1 << 48) - 2);
        put_vec8(&mut out, b"ab");
        put_vec16(&mut out, b"cde");
        let mut reader = Reader::new(&out);
        assert_eq!(reader.u16(), Some(0xfefd));
        assert_eq!(reader.u24(), Some(0x01_0203));
        assert_eq!(reader.u48(), Some((1 << 48) - 2));
        assert_eq!(reader.vec8(), Some(&b"ab"[..]));
        assert_eq!(reader.vec16(), Some(&b"cde"[..]));
        assert!(reader.is_empty());
    }

    #[test]
    fn a_vector_that_says_more_than_there_is_is_refused() {
        assert_eq!(Reader::new(&[3, 1, 2]).vec8(), None);
        assert_eq!(Reader::new(&[0xff, 0xff, 1]).vec16(), None);
        assert_eq!(Reader::new(&[0, 1]).u24(), None);
    }
}
