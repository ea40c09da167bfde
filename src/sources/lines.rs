//! Lines of a file or a pipe, read ahead on a thread, since reading a pipe blocks.

use std::io::BufRead;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use bytes::Bytes;

use super::Reader;
use crate::model::{Origin, Record, Timestamp, Value};

/// Lines read ahead of the task.
const LINES_AHEAD: usize = 4096;

/// Reads lines on a thread of its own. An empty line is no record.
pub(super) struct LineReader {
    lines: Receiver<String>,
    next: i64,
    ended: bool,
    /// The lines come from a pipe: the next one may take any time.
    live: bool,
}

impl LineReader {
    pub(super) fn start(mut from: impl BufRead + Send + 'static, live: bool) -> std::io::Result<LineReader> {
        let (send, lines) = sync_channel(LINES_AHEAD);
        // Not joined: a read of standard input cannot be interrupted, so the thread ends with the process.
        std::thread::Builder::new().name("lines".into()).spawn(move || {
            let mut line = String::new();
            loop {
                line.clear();
                match from.read_line(&mut line) {
                    Ok(0) => return,
                    Ok(_) => {
                        let text = line.trim_end_matches(['\n', '\r']);
                        if !text.is_empty() && send.send(text.to_owned()).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot read lines");
                        return;
                    }
                }
            }
        })?;
        Ok(LineReader { lines, next: 0, ended: false, live })
    }
}

impl Reader for LineReader {
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        for n in 0..max {
            match self.lines.try_recv() {
                Ok(line) => {
                    out.push(Record {
                        value: Value::Bytes(Bytes::from(line)),
                        ts: now,
                        origin: Origin { topic: 0, partition: 0, offset: self.next },
                        ..Record::default()
                    });
                    self.next += 1;
                }
                Err(TryRecvError::Empty) => return Ok(n),
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return Ok(n);
                }
            }
        }
        Ok(max)
    }

    fn caught_up(&self) -> bool {
        self.ended
    }

    fn ended(&self) -> bool {
        self.ended
    }

    fn lets_others_go_on(&self) -> bool {
        self.live || self.ended
    }
}
