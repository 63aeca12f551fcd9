//! What the client of a push sees behind `remote:` while it waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::text;
use crate::window::Window;

/// Lines that wait for the client.
pub(crate) const LINES: usize = 256;
/// Characters of a line. A terminal shows fewer, and a line of a log has not many more.
const LINE_MAX: usize = 2000;

/// Tells the client of a push how it goes. Speaking never waits: where the client is behind or has gone, lines are left out.
#[derive(Clone, Debug)]
pub struct Progress {
    lines: mpsc::Sender<Said>,
    window: Window,
    left_out: Arc<AtomicUsize>,
}

/// What goes to the hook.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Line(String),
    Accept,
    Refuse,
}

impl Progress {
    pub(crate) fn new(lines: mpsc::Sender<Said>, window: Window) -> Self {
        Self { lines, window, left_out: Arc::default() }
    }

    /// Says one line, or several. Colours and control characters are left out.
    pub fn line(&self, text: &str) {
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.say(&text::plain(line));
        }
    }

    /// Comes back once the client has gone. What is under way then is up to whoever decides on the push.
    pub async fn gone(&self) {
        self.window.closed().await;
    }

    fn say(&self, line: &str) {
        let left_out = self.left_out.load(Ordering::Relaxed);
        let needed = if left_out > 0 { 2 } else { 1 };
        if self.window.is_full() || self.lines.capacity() < needed {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if left_out > 0 {
            self.left_out.fetch_sub(left_out, Ordering::Relaxed);
            self.send(format!("… {left_out} lines left out"));
        }
        self.send(match line.char_indices().nth(LINE_MAX) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line.to_owned(),
        });
    }

    fn send(&self, line: String) {
        if self.lines.try_send(Said::Line(line)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt as _;

    use super::*;
    use crate::window;

    fn said(lines: &mut mpsc::Receiver<Said>) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok(Said::Line(line)) = lines.try_recv() {
            said.push(line);
        }
        said
    }

    #[tokio::test]
    async fn text_becomes_plain_lines() {
        let (sender, mut lines) = mpsc::channel(LINES);
        let (window, _answer) = window::open();
        let progress = Progress::new(sender, window);
        progress.line("one\n\u{1b}[31mtwo\u{1b}[0m\r\n");
        progress.line("");
        progress.line(&"x".repeat(LINE_MAX + 5));
        assert_eq!(said(&mut lines), ["one", "two", "", &format!("{}…", "x".repeat(LINE_MAX))]);
    }

    #[tokio::test]
    async fn lines_are_left_out_and_counted_while_the_client_is_behind() {
        let (sender, mut lines) = mpsc::channel(LINES);
        let (window, mut answer) = window::open();
        let progress = Progress::new(sender, window.clone());
        window.show(Bytes::from(vec![0; 1 << 20]));
        (0..10).for_each(|_| progress.line("lost"));
        assert_eq!(said(&mut lines), [""; 0]);
        answer.next().await.unwrap().unwrap();
        progress.line("here again");
        assert_eq!(said(&mut lines), ["… 10 lines left out", "here again"]);
    }

    #[tokio::test]
    async fn more_lines_than_fit_are_left_out() {
        let (sender, mut lines) = mpsc::channel(3);
        let (window, _answer) = window::open();
        let progress = Progress::new(sender, window);
        (0..10).for_each(|number| progress.line(&number.to_string()));
        assert_eq!(said(&mut lines), ["0", "1", "2"]);
        progress.line("again");
        assert_eq!(said(&mut lines), ["… 7 lines left out", "again"]);
    }
}
