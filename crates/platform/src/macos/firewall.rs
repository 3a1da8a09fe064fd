//! The packet filter: not supported yet. Never run on this system yet.

use crate::PlatformError;
use crate::firewall::{Counter, Table};
use crate::network::Restored;

/// There is none of this kind here.
#[derive(Clone, Debug)]
pub struct Nft {
    never: std::convert::Infallible,
}

impl Nft {
    /// Not supported.
    pub fn find() -> Result<Self, PlatformError> {
        Err(PlatformError::Unsupported("a packet filter for tunnels"))
    }

    /// Never called: there is no such value.
    pub async fn load(&self, _script: &str, _what: &str) -> Result<(), PlatformError> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn remove(&self, _tables: &[Table]) -> Result<(), PlatformError> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn remove_named(&self, _names: &[String]) -> Result<(), PlatformError> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn counters_named(&self, _name: &str) -> Result<Vec<Counter>, PlatformError> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn tables(&self) -> Result<Vec<Table>, PlatformError> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn clear(&self, _tables: &[Table]) -> Restored {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn owner(&self, _table: Table) -> Result<Option<String>, PlatformError> {
        match self.never {}
    }

    /// Never called: there is no such value.
    pub async fn counters(&self, _table: Table) -> Result<Vec<Counter>, PlatformError> {
        match self.never {}
    }
}
