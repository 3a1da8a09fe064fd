//! HTTP/1.1 as far as the dialogue before the tunnel needs it: heads and bodies, strict, with hard limits.
//!
//! What two readers could understand differently is refused: folded lines, two lengths, a length beside a transfer
//! coding, control characters. Header names compare without case here; the CONNECT reply, where stock clients compare
//! with case, uses [`Headers::get_exact`].

mod body;
mod head;
mod headers;

pub use body::BodyDecoder;
pub use head::{Method, RequestHead, ResponseHead, parse_request, parse_response};
pub use headers::Headers;
