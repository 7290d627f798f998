//! Files that are replaced as a whole, and the lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{LOCK, UNFINISHED};
use crate::error::Error;

/// Replaces a file as a whole: whoever looks sees the old one or the new one, also after a crash.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace_with(path, |file| file.write_all(bytes))
}

/// As [`replace`], with what `write` writes.
pub(super) fn replace_with(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(UNFINISHED);
    let unfinished = path.with_file_name(name);
    let written = File::create(&unfinished)
        .and_then(|mut file| {
            write(&mut file)?;
            file.sync_all()
        })
        .and_then(|()| rename(&unfinished, path));
    written.map_err(|source| {
        // What is left of a failed write only takes room.
        let _ = fs::remove_file(&unfinished);
        Error::Write { path: path.to_owned(), source }
    })
}

/// Adds a line to the end of a file; behind half a line, which a full disk leaves, on one of its own.
pub(super) fn append(path: &Path, line: &str) -> Result<(), Error> {
    let added = |line: &[u8]| -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut last = *b"\n";
        if file.seek(SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last)?;
        }
        let ended = last == *b"\n";
        file.write_all(&if ended { line.to_vec() } else { [b"\n", line].concat() })
    };
    added(line.as_bytes()).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Removes what a process left that was killed while it wrote.
pub(super) fn remove_unfinished(folder: &Path) -> Result<(), Error> {
    let read = |source| Error::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.as_os_str().to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
        }
    }
    Ok(())
}

/// Makes a folder and those it is in, to last through a power cut.
pub(super) fn make_folder(folder: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    fs::create_dir_all(folder)
        .and_then(|()| missing.iter().rev().try_for_each(|folder| sync_folder(parent(folder))))
        .map_err(|source| Error::Write { path: folder.to_owned(), source })
}

/// Renames a file or folder within its folder, to last through a power cut.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to).and_then(|()| sync_folder(parent(to)))
}

/// The folder that something is in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Finds out whether another process writes in a folder, if it is a run's.
pub(super) fn check_idle(folder: &Path) -> Result<(), Error> {
    // A run of before there were locks has none to be held.
    if folder.join(LOCK).exists() { lock(folder).map(drop) } else { Ok(()) }
}

/// Locks the folder of a run for this process.
pub(super) fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    let refused = |source| Error::Write { path: path.clone(), source };
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::RunBusy(folder.to_owned())),
        // Some network file systems know no locks; a run there goes without.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

/// Makes a rename in `folder` last through a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
