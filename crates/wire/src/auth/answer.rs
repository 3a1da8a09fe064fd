//! How a form becomes a reply.

use thiserror::Error;

use super::{Form, Input, Reply};
use crate::secret::Secret;

/// A form asks for something the caller has no answer to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("gateway asks for `{}`, which was not given", crate::text::escape(.name))]
pub struct Unanswered {
    /// Name of the input.
    pub name: String,
}

impl Form {
    /// Answers the form: `pick` is asked for every text, password and select but the group; `group` chooses from the
    /// `group_list` by value or label, and the first group is taken if it is `None`. The caller fills in
    /// [`Reply::version`] and [`Reply::device`].
    ///
    /// # Errors
    /// [`Unanswered`] for the first input that `pick` has nothing for, or if there is no such group.
    pub fn answer(
        &self,
        _pick: impl FnMut(&Input) -> Option<Secret>,
        _group: Option<&str>,
    ) -> Result<Reply, Unanswered> {
        Err(Unanswered { name: String::new() })
    }
}
