//! Lines of a file or a pipe, read ahead on a thread, since reading a pipe blocks.

use std::io::BufRead;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use bytes::Bytes;

use super::Reader;
use crate::model::{Origin, Record, Timestamp, Value};

/// Lines read ahead of the task.
const LINES_AHEAD: usize = 4096;

/// The byte order mark that text in UTF-8 may begin with. It is no part of the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// The marks of UTF-16 (and of UTF-32, little-endian), whose bytes have no lines.
const OTHER_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Reads lines on a thread of its own. An empty line is no record. A line is what stands between two line ends, whatever
/// its bytes: the source node checks the format, as it does for every record.
pub(super) struct LineReader {
    lines: Receiver<Result<Vec<u8>, String>>,
    next: i64,
    ended: bool,
    failure: Option<String>,
    /// The lines come from a pipe: the next one may take any time.
    live: bool,
}

impl LineReader {
    /// `text`: the bytes are to be text, so a byte order mark at their start means something.
    pub(super) fn start(
        mut from: impl BufRead + Send + 'static,
        live: bool,
        text: bool,
    ) -> std::io::Result<LineReader> {
        let (send, lines) = sync_channel(LINES_AHEAD);
        // Not joined: a read of standard input cannot be interrupted, so the thread ends with the process.
        std::thread::Builder::new().name("lines".into()).spawn(move || {
            let mut line = Vec::new();
            for n in 1_u64.. {
                line.clear();
                let read = match from.read_until(b'\n', &mut line) {
                    Ok(0) => return,
                    Ok(_) => Ok(content(&line, text && n == 1)),
                    Err(error) => Err(format!("line {n} cannot be read: {error}")),
                };
                let item = match read {
                    Ok(Ok([])) => continue,
                    Ok(Ok(content)) => Ok(content.to_vec()),
                    Ok(Err(message)) | Err(message) => Err(message),
                };
                let is_last = item.is_err();
                if send.send(item).is_err() || is_last {
                    return;
                }
            }
        })?;
        Ok(LineReader { lines, next: 0, ended: false, failure: None, live })
    }
}

/// What is in a line: without its end, and where it is the `first` one of a text without a byte order mark.
fn content(line: &[u8], first: bool) -> Result<&[u8], String> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if first && OTHER_MARKS.iter().any(|mark| line.starts_with(mark)) {
        let help = "convert it, for example with `iconv -f UTF-16 -t UTF-8`";
        return Err(format!("its text is in UTF-16, and lines are in UTF-8: {help}"));
    }
    Ok(line.strip_prefix(MARK).filter(|_| first).unwrap_or(line))
}

impl Reader for LineReader {
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        for n in 0..max {
            match self.lines.try_recv() {
                Ok(Ok(line)) => {
                    out.push(Record {
                        value: Value::Bytes(Bytes::from(line)),
                        ts: now,
                        origin: Origin { topic: 0, partition: 0, offset: self.next },
                        ..Record::default()
                    });
                    self.next += 1;
                }
                Ok(Err(message)) => {
                    self.failure = Some(message);
                    self.ended = true;
                    return Ok(n);
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

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn lets_others_go_on(&self) -> bool {
        self.live || self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Error, Read};

    use super::*;

    /// The lines of these bytes, and why they ended.
    fn lines(from: impl Read + Send + 'static, text: bool) -> (Vec<Vec<u8>>, Option<String>) {
        let mut reader = LineReader::start(BufReader::new(from), false, text).expect("starts");
        let mut records = Vec::new();
        while !reader.ended() {
            reader.poll(100, Timestamp(0), &mut records).expect("reads");
            std::thread::yield_now();
        }
        let offsets: Vec<i64> = records.iter().map(|record| record.origin.offset).collect();
        assert_eq!(offsets, (0..).take(records.len()).collect::<Vec<i64>>());
        let bytes = records.iter().map(|record| record.value.bytes().expect("bytes").to_vec()).collect();
        (bytes, reader.failure().map(str::to_owned))
    }

    fn check(bytes: &'static [u8], text: bool, want: &[&[u8]]) {
        let want: Vec<Vec<u8>> = want.iter().map(|line| line.to_vec()).collect();
        assert_eq!(lines(bytes, text), (want, None), "{bytes:?}");
    }

    #[test]
    fn a_line_is_what_stands_between_line_ends() {
        check(b"a\nb\r\n\n\r\nc", true, &[b"a", b"b", b"c"]);
        check(b"a\r\r\n b \n", true, &[b"a\r", b" b "]);
        check(b"", true, &[]);
    }

    #[test]
    fn bytes_that_are_no_text_are_a_line_too() {
        check(b"a\n\xff\xfe{\nb\n", true, &[b"a", b"\xff\xfe{", b"b"]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        check(b"\xef\xbb\xbf{}\n\xef\xbb\xbf\n", true, &[b"{}", b"\xef\xbb\xbf"]);
        check(b"\xef\xbb\xbf\na\n", true, &[b"a"]);
        check(b"\xef\xbb\xbf{}\n", false, &[b"\xef\xbb\xbf{}"]);
        check(b"\xff\xfea\n", false, &[b"\xff\xfea"]);
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let (read, failure) = lines(&b"\xff\xfe{\0}\0\n\0"[..], true);
        assert!(
            read.is_empty() && failure.as_deref().is_some_and(|why| why.contains("UTF-16")),
            "{failure:?}"
        );
        struct Torn(bool);
        impl Read for Torn {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(Error::other("torn off"));
                }
                buffer[..4].copy_from_slice(b"a\nb\n");
                Ok(4)
            }
        }
        let (read, failure) = lines(Torn(false), true);
        assert_eq!(read, [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(failure.as_deref(), Some("line 3 cannot be read: torn off"));
    }
}
