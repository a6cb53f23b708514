//! What the journal is made of: records, each with its length and the CRC of its bytes, so that a tail that was torn by a
//! crash is told from what was written whole. Pure.

use crate::protocol::CommandKey;

/// No record is longer: the largest holds one message to the Panel and a command's id.
const MAX_RECORD: usize = 4 << 20;
/// Length and CRC, four bytes each, the lowest first.
const HEAD: usize = 8;

/// One step in the life of a command, or of a message to the Panel. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A command was taken on. `action` is the contract's name, `link` whether it came over the link.
    Received { key: CommandKey, action: String, server: String, link: bool },
    /// Its side effects may begin. `run` is the run of the container at that time, 0 for none.
    Started { key: CommandKey, run: u64 },
    /// It is answered. `answer` is as of [`keep`](crate::protocol::kept::keep); `owed` whether the link has to carry it.
    Done { key: CommandKey, number: u64, at: u64, owed: bool, answer: String },
    /// An event that waits for its delivery.
    Said(Said),
    /// Messages that need not be kept any more.
    Gone { numbers: Vec<u64> },
}

/// A control event as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Names it in [`Record::Gone`]; grows over restarts.
    pub number: u64,
    pub at: u64,
    pub boot: String,
    pub seq: u64,
    /// Whose status it tells.
    pub server: Option<String>,
    pub text: String,
}

impl Record {
    /// Appends the record to `log`.
    pub fn write(&self, log: &mut Vec<u8>) {
        let begin = log.len();
        log.extend([0; HEAD]);
        let mut out = Writer(log);
        match self {
            Record::Received { key, action, server, link } => {
                out.kind(1).key(key).text(action).text(server).number((*link).into());
            }
            Record::Started { key, run } => {
                out.kind(2).key(key).number(*run);
            }
            Record::Done { key, number, at, owed, answer } => {
                out.kind(3).key(key).number(*number).number(*at).number((*owed).into()).text(answer);
            }
            Record::Said(Said { number, at, boot, seq, server, text }) => {
                out.kind(4).number(*number).number(*at).text(boot).number(*seq);
                out.text(server.as_deref().unwrap_or_default()).text(text);
            }
            Record::Gone { numbers } => {
                out.kind(5);
                for number in numbers {
                    out.number(*number);
                }
            }
        }
        let body = &log[begin + HEAD..];
        let (length, crc) = (body.len() as u32, crc32fast::hash(body));
        log[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        log[begin + 4..begin + HEAD].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads records up to the first that is not whole.
pub struct Reader<'a> {
    log: &'a [u8],
    /// Where the records that were read end.
    pub whole: usize,
}

impl<'a> Reader<'a> {
    pub fn new(log: &'a [u8]) -> Reader<'a> {
        Reader { log, whole: 0 }
    }
}

impl Iterator for Reader<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let rest = &self.log[self.whole..];
        let (length, rest) = rest.split_first_chunk()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let body = rest.get(..length).filter(|_| length <= MAX_RECORD)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let record = Fields(body).record()?;
        self.whole += HEAD + length;
        Some(record)
    }
}

struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn kind(&mut self, kind: u8) -> &mut Self {
        self.0.push(kind);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn key(&mut self, key: &CommandKey) -> &mut Self {
        self.0.extend(key.content);
        self.text(&key.id)
    }
}

/// What is left of a record's body.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn record(&mut self) -> Option<Record> {
        let [kind] = self.take()?;
        Some(match kind {
            1 => Record::Received {
                key: self.key()?,
                action: self.text()?,
                server: self.text()?,
                link: self.number()? != 0,
            },
            2 => Record::Started { key: self.key()?, run: self.number()? },
            3 => Record::Done {
                key: self.key()?,
                number: self.number()?,
                at: self.number()?,
                owed: self.number()? != 0,
                answer: self.text()?,
            },
            4 => Record::Said(Said {
                number: self.number()?,
                at: self.number()?,
                boot: self.text()?,
                seq: self.number()?,
                server: Some(self.text()?).filter(|server| !server.is_empty()),
                text: self.text()?,
            }),
            5 => {
                let mut numbers = Vec::with_capacity(self.0.len() / 8);
                while !self.0.is_empty() {
                    numbers.push(self.number()?);
                }
                Record::Gone { numbers }
            }
            _ => return None,
        })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn key(&mut self) -> Option<CommandKey> {
        Some(CommandKey { content: self.take()?, id: self.text()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        let key = CommandKey { id: "cmd-1 ü".into(), content: [7; 32] };
        let (action, server) = ("start_server".to_owned(), "s".to_owned());
        vec![
            Record::Received { key: key.clone(), action, server: server.clone(), link: true },
            Record::Started { key: key.clone(), run: u64::MAX },
            Record::Done { key, number: 3, at: 4, owed: false, answer: "{}".into() },
            Record::Said(Said {
                number: 5,
                at: 6,
                boot: "b".into(),
                seq: 7,
                server: Some(server),
                text: "{}".into(),
            }),
            Record::Gone { numbers: vec![3, 5] },
        ]
    }

    #[test]
    fn whatever_is_torn_or_flipped_what_came_before_it_is_read() {
        let (mut log, mut ends) = (Vec::new(), Vec::new());
        for record in records() {
            record.write(&mut log);
            ends.push(log.len());
        }
        let read = |log: &[u8]| {
            let mut reader = Reader::new(log);
            let found: Vec<_> = reader.by_ref().collect();
            (found, reader.whole)
        };
        assert_eq!(read(&log), (records(), log.len()));
        for at in 0..log.len() {
            let whole = ends.iter().filter(|end| **end <= at).count();
            let expected = (records()[..whole].to_vec(), whole.checked_sub(1).map_or(0, |last| ends[last]));
            assert_eq!(read(&log[..at]), expected, "torn at {at}");
            let mut flipped = log.clone();
            flipped[at] ^= 0x10;
            assert_eq!(read(&flipped), expected, "flipped at {at}");
        }
    }
}
