//! Files that only their owner may read.

use std::{fs::OpenOptions, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Writes a new file with mode 0600 and waits until it is on the disk.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if the file exists; it is left alone.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// [`write_new`] unless the file exists. Returns whether it was written.
///
/// # Errors
/// Any other error of [`write_new`].
pub fn write_if_absent(path: &Path, content: &[u8]) -> io::Result<bool> {
    match write_new(path, content) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn file_is_owner_readable_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(write_if_absent(&path, b"first").unwrap());
        assert!(!write_if_absent(&path, b"second").unwrap());
        assert_eq!(write_new(&path, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
