//! The members of a consumer group, as the broker describes them, and how an instance says where it is.
//!
//! An instance has no place of its own to write its address to: the address rides in the `client.id` of its member of the
//! group (`slackwater@host:port`), and every other instance reads it there. So a member that has left or died is gone
//! from the list with its partitions, and nothing has to be cleaned up.

use super::TopicPartition;
use super::ffi::Described;

/// A member of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its `client.id`.
    pub client_id: String,
    /// Where its connection comes from, as the broker sees it.
    pub host: String,
    /// What is assigned to it, as the broker knows it.
    pub partitions: Vec<TopicPartition>,
}

impl From<Described> for Member {
    fn from(native: Described) -> Member {
        let partitions = native.partitions.into_iter().map(|e| TopicPartition::new(e.topic, e.partition));
        Member {
            client_id: native.client_id,
            // Java prints an address without a name so.
            host: native.host.trim_start_matches('/').to_owned(),
            partitions: partitions.collect(),
        }
    }
}

impl Member {
    /// The address that it advertises, `host:port`; `None`: none. For a host that is only an address to listen on
    /// (`0.0.0.0`), the one where its connection comes from.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        let (_, address) = self.client_id.rsplit_once('@')?;
        let (host, port) = address.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let anywhere = matches!(host, "0.0.0.0" | "[::]");
        let host = if anywhere { self.host.as_str() } else { host };
        match host {
            "" => None,
            host if host.contains(':') && !host.starts_with('[') => Some(format!("[{host}]:{port}")),
            host => Some(format!("{host}:{port}")),
        }
    }
}

/// The `client.id` of an instance that others find at `address`.
pub(super) fn client_id(name: &str, address: &str) -> String {
    format!("{name}@{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_rides_in_the_client_id() {
        let address = |client_id: &str, host: &str| {
            Member { client_id: client_id.to_owned(), host: host.to_owned(), partitions: Vec::new() }
                .address()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(address(&client_id("slackwater", "10.0.0.7:9464"), "10.0.0.7"), some("10.0.0.7:9464"));
        assert_eq!(address("me@home@pod-3.svc:80", "10.0.0.7"), some("pod-3.svc:80"));
        assert_eq!(address("slackwater@0.0.0.0:9464", "10.0.0.7"), some("10.0.0.7:9464"));
        assert_eq!(address("slackwater@[::]:9464", "fe80::1"), some("[fe80::1]:9464"));
        assert_eq!(address("slackwater@[::1]:9464", ""), some("[::1]:9464"));
        for none in ["slackwater", "slackwater@host", "slackwater@host:0", "a@host:x", "a@0.0.0.0:1"] {
            assert_eq!(address(none, ""), None, "{none}");
        }
    }
}
