//! Users by name, as the host's name service knows them.

use std::ffi::CString;

/// The largest entry that is read, in bytes; one has some hundred.
const MAX_ENTRY: usize = 64 * 1024;

/// The number of the user with this name; a name of digits alone is one itself, whether or not there is such a user.
pub fn number_of(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let name = CString::new(name).ok()?;
    let mut size = 1024;
    while size <= MAX_ENTRY {
        let mut buffer = vec![0 as libc::c_char; size];
        // SAFETY: an all-zero entry is valid: integers and null pointers.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `size` is the length of the buffer.
        let result = unsafe { libc::getpwnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr(), size, &mut found) };
        match result {
            libc::ERANGE => size *= 4,
            0 if !found.is_null() => return Some(entry.pw_uid),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_and_by_number() {
        assert_eq!(number_of("root"), Some(0));
        assert_eq!(number_of("65533"), Some(65_533));
        assert_eq!(number_of("no such user"), None);
    }
}
