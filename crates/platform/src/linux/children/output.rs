//! What a hook wrote: its first and its last words, however much lies between.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

/// As much as a pipe holds.
const PIECE: usize = 64 * 1024;

/// Pause after each piece beyond the limit: a hook that floods us with output is held to 13 MB/s, which cost us nothing.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Output {
    head: Vec<u8>,
    head_limit: usize,
    tail: VecDeque<u8>,
    tail_limit: usize,
    total: u64,
}

impl Output {
    pub(super) fn new(limit: usize) -> Self {
        let tail_limit = limit / 2;
        Self {
            head: Vec::new(),
            head_limit: limit - tail_limit,
            tail: VecDeque::new(),
            tail_limit,
            total: 0,
        }
    }

    /// Takes what comes, for as long as it is polled.
    pub(super) async fn collect(&mut self, pipe: &mut Receiver) -> Infallible {
        let mut piece = vec![0; PIECE];
        loop {
            match pipe.read(&mut piece).await {
                Ok(length) if length > 0 => {
                    self.take(&piece[..length]);
                    if self.left_out() > 0 {
                        sleep(PAUSE).await;
                    }
                }
                _ => return future::pending().await,
            }
        }
    }

    /// Takes what is there already: at most what a pipe holds.
    pub(super) fn drain(&mut self, pipe: &Receiver) {
        let mut piece = vec![0; PIECE];
        if let Ok(length) = pipe.try_read(&mut piece) {
            self.take(&piece[..length]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_limit - self.head.len()));
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    pub(super) fn left_out(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }

    pub(super) fn into_text(mut self) -> String {
        let left_out = self.left_out();
        let tail = self.tail.make_contiguous();
        if left_out == 0 {
            self.head.extend_from_slice(tail);
            return text(&self.head);
        }
        format!("{}\n[{left_out} bytes left out]\n{}", text(&self.head), text(tail))
    }
}

fn text(bytes: &[u8]) -> String {
    let harmless = |c: char| {
        if c.is_control() && !matches!(c, '\n' | '\t') {
            '\u{fffd}'
        } else {
            c
        }
    };
    String::from_utf8_lossy(bytes).chars().map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limit: usize, pieces: &[&str]) -> (String, u64) {
        let mut output = Output::new(limit);
        for piece in pieces {
            output.take(piece.as_bytes());
        }
        let left_out = output.left_out();
        (output.into_text(), left_out)
    }

    #[test]
    fn short_output_is_kept_as_it_is() {
        assert_eq!(of(10, &["one\n", "two", "\n"]), ("one\ntwo\n".into(), 0));
        assert_eq!(of(10, &["0123456789"]), ("0123456789".into(), 0));
        assert_eq!(of(10, &[]), (String::new(), 0));
    }

    #[test]
    fn of_long_output_the_first_and_the_last_bytes_are_kept() {
        let (text, left_out) = of(10, &["abcdefg", "hijklmno", "p", "qrstuvwxyz"]);
        assert_eq!((text.as_str(), left_out), ("abcde\n[16 bytes left out]\nvwxyz", 16));
        let (text, left_out) = of(3, &["abcdef"]);
        assert_eq!((text.as_str(), left_out), ("ab\n[3 bytes left out]\nf", 3));
        assert_eq!(of(0, &["abc"]), ("\n[3 bytes left out]\n".into(), 3));
    }

    #[test]
    fn output_cannot_play_with_a_terminal() {
        assert_eq!(of(100, &["a\u{1b}[2Jb\r\n\t\0"]).0, "a\u{fffd}[2Jb\u{fffd}\n\t\u{fffd}");
    }
}
