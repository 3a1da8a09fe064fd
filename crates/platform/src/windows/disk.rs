//! The folder of a ledger: not supported yet, for want of access lists. Never run on this system yet.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use ledger::{Disk, DiskError, FileName, Folder};

use crate::PlatformError;
use crate::disk::Keeper;
use crate::service::Descriptor;

/// There is none on this system: [`FolderDisk::open`] says so.
#[derive(Clone, Debug)]
pub struct FolderDisk(Infallible);

/// Nobody can hold one on this system.
#[derive(Debug)]
pub struct WorkerLock(Infallible);

impl WorkerLock {
    /// See [`FolderDisk::open`].
    pub fn descriptor(&self) -> io::Result<Descriptor> {
        match self.0 {}
    }
}

impl FolderDisk {
    /// Not supported.
    pub fn open(_root: &Path) -> Result<Self, PlatformError> {
        Err(PlatformError::Unsupported("keeping a ledger"))
    }

    /// See [`FolderDisk::open`].
    pub fn root(&self) -> &Path {
        match self.0 {}
    }

    /// See [`FolderDisk::open`].
    pub fn lock_worker_waiting(&self) -> Result<WorkerLock, DiskError> {
        match self.0 {}
    }

    /// See [`FolderDisk::open`].
    pub fn lock_keeper(&self) -> Result<Keeper, DiskError> {
        match self.0 {}
    }
}

impl Disk for FolderDisk {
    type Lock = WorkerLock;

    fn list(&self, _folder: Folder) -> Result<Vec<FileName>, DiskError> {
        match self.0 {}
    }

    fn read(&self, _folder: Folder, _name: &FileName) -> Result<Vec<u8>, DiskError> {
        match self.0 {}
    }

    fn write_temporary(&self, _folder: Folder, _name: &FileName, _bytes: &[u8]) -> Result<(), DiskError> {
        match self.0 {}
    }

    fn sync_temporary(&self, _folder: Folder, _name: &FileName) -> Result<(), DiskError> {
        match self.0 {}
    }

    fn publish(&self, _folder: Folder, _name: &FileName) -> Result<(), DiskError> {
        match self.0 {}
    }

    fn sync_folder(&self, _folder: Folder) -> Result<(), DiskError> {
        match self.0 {}
    }

    fn rename(&self, _from: (Folder, &FileName), _to: (Folder, &FileName)) -> Result<(), DiskError> {
        match self.0 {}
    }

    fn remove(&self, _folder: Folder, _name: &FileName) -> Result<(), DiskError> {
        match self.0 {}
    }

    fn remove_temporaries(&self, _folder: Folder) -> Result<(), DiskError> {
        match self.0 {}
    }

    fn lock_worker(&self) -> Result<Option<WorkerLock>, DiskError> {
        match self.0 {}
    }
}
