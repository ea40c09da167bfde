//! The few librdkafka calls that the `rdkafka` crate does not wrap, and the only `unsafe` code of this program.
//!
//! Each function takes a client that lives at least as long as the call, copies what it reads into owned values and
//! frees what librdkafka allocated before it returns. Nothing keeps a pointer.

#![expect(
    unsafe_code,
    reason = "librdkafka calls without a safe wrapper; one file, each with its SAFETY comment"
)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as rd;
use rdkafka::client::Client;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode;

const NO_ERROR: rd::rd_kafka_resp_err_t = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// Waits until the producer has no message queued or in flight and every delivery report was served. Does not wait for
/// linger. The `rdkafka` crate's own flush takes 100 ms whenever anything is in flight (0.38, 0.39).
///
/// True: everything was delivered or has failed. False: the timeout came first.
pub(super) fn flush<C: ClientContext>(client: &Client<C>, timeout: Duration) -> bool {
    // SAFETY: the pointer is the live client's own, and the call keeps nothing.
    unsafe { rd::rd_kafka_flush(client.native_ptr(), millis(timeout)) == NO_ERROR }
}

/// What librdkafka knows of a message that was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persisted {
    /// It was not sent to a broker, or was refused: it is in no topic, and will not be.
    No,
    /// It was sent, and no answer came.
    Maybe,
}

/// What is known of a message in its delivery report.
pub(super) fn persisted(message: &BorrowedMessage<'_>) -> Persisted {
    // SAFETY: the message is alive, and the call keeps nothing.
    match unsafe { rd::rd_kafka_message_status(message.ptr()) } {
        rd::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Persisted::No,
        _ => Persisted::Maybe,
    }
}

/// Detaches a partition's queue from the consumer's main queue, so that its records wait until the queue is split off.
/// Works before the partition is assigned.
pub(super) fn unforward<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32) {
    let Ok(topic) = CString::new(topic) else { return };
    // SAFETY: the client is alive and `topic` outlives the call. The queue is a counted reference, destroyed here;
    // a null destination is how librdkafka spells "no forwarding".
    unsafe {
        let queue = rd::rd_kafka_queue_get_partition(client.native_ptr(), topic.as_ptr(), partition);
        if !queue.is_null() {
            rd::rd_kafka_queue_forward(queue, ptr::null_mut());
            rd::rd_kafka_queue_destroy(queue);
        }
    }
}

/// The offset at which the next poll of a partition starts. It moves past transaction markers and aborted records by
/// itself. `None` until something was read.
pub(super) fn position<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32) -> Option<i64> {
    let list = List::new(&[(topic, partition)])?;
    // SAFETY: client and list are alive; the list has one element, which librdkafka fills in.
    unsafe {
        if rd::rd_kafka_position(client.native_ptr(), list.0) != NO_ERROR {
            return None;
        }
    }
    list.elements().first().map(|e| e.offset).filter(|offset| *offset >= 0)
}

/// Gives a client bootstrap servers in addition to those it has. Returns how many of the list it then knows.
pub(super) fn add_brokers<C: ClientContext>(client: &Client<C>, brokers: &str) -> i32 {
    let Ok(brokers) = CString::new(brokers) else { return 0 };
    // SAFETY: the client is alive; the list is copied.
    unsafe { rd::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) }
}

/// Generation and member id of a consumer in its group; `None` while it is not a member.
pub(super) fn membership<C: ClientContext>(client: &Client<C>) -> Option<(i32, String)> {
    // SAFETY: the client is alive; what librdkafka allocates is copied and freed here, null is looked for.
    unsafe {
        let metadata = rd::rd_kafka_consumer_group_metadata(client.native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = rd::rd_kafka_consumer_group_metadata_generation_id(metadata);
        let id = rd::rd_kafka_consumer_group_metadata_member_id(metadata);
        let member =
            if id.is_null() { String::new() } else { CStr::from_ptr(id).to_string_lossy().into_owned() };
        rd::rd_kafka_consumer_group_metadata_destroy(metadata);
        (generation >= 0 && !member.is_empty()).then_some((generation, member))
    }
}

/// One partition of a list, copied out.
pub(super) struct Element {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) error: Option<RDKafkaErrorCode>,
}

/// A native partition list, freed on drop. A list that outlives its client's use would keep the client from closing, so
/// none leaves this file.
struct List(*mut rd::rd_kafka_topic_partition_list_t);

impl List {
    fn new(partitions: &[(&str, i32)]) -> Option<List> {
        // SAFETY: the size is a hint only.
        let list = List(unsafe { rd::rd_kafka_topic_partition_list_new(0) });
        for (topic, partition) in partitions {
            let topic = CString::new(*topic).ok()?;
            // SAFETY: the list is alive and copies the name.
            unsafe { rd::rd_kafka_topic_partition_list_add(list.0, topic.as_ptr(), *partition) };
        }
        Some(list)
    }

    fn elements(&self) -> Vec<Element> {
        // SAFETY: the list is alive and is not changed while it is copied.
        unsafe { elements(self.0) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        unsafe { rd::rd_kafka_topic_partition_list_destroy(self.0) }
    }
}

/// SAFETY: `list` is null or points to a list that does not change during the call.
unsafe fn elements(list: *const rd::rd_kafka_topic_partition_list_t) -> Vec<Element> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: by the caller; `elems` has `cnt` initialised elements with NUL-ended names.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        (0..count)
            .map(|i| {
                let element = &*(*list).elems.add(i);
                Element {
                    topic: CStr::from_ptr(element.topic).to_string_lossy().into_owned(),
                    partition: element.partition,
                    offset: element.offset,
                    error: (element.err != NO_ERROR).then(|| element.err.into()),
                }
            })
            .collect()
    }
}

/// The longest request timeout that librdkafka accepts.
const GIVE_UP: Duration = Duration::from_secs(3600);

/// Owned native objects of one admin call: its options, and the queue of its own that its answer comes to.
struct Asking {
    options: *mut rd::rd_kafka_AdminOptions_t,
    queue: *mut rd::rd_kafka_queue_t,
    event: *mut rd::rd_kafka_event_t,
}

impl Asking {
    /// The options of a call that is never given up.
    ///
    /// Deliberately without the caller's time limit: when librdkafka 2.12.1 has given up such a request and its
    /// coordinator comes back later, it aborts the process (`eonce->refcnt > 0`; rd_kafka_admin_coord_request answers a
    /// request that is gone). So the request itself never times out in practice; an answer that comes after our own time
    /// limit is dropped with its queue.
    fn new<C: ClientContext>(client: &Client<C>, what: rd::rd_kafka_admin_op_t) -> Result<Asking, Failure> {
        let rk = client.native_ptr();
        // SAFETY: the client is alive during the call, and `drop` destroys what is created here.
        let asking = unsafe {
            Asking {
                options: rd::rd_kafka_AdminOptions_new(rk, what),
                queue: rd::rd_kafka_queue_new(rk),
                event: ptr::null_mut(),
            }
        };
        let mut text = [0; 256];
        // SAFETY: the options are alive, and librdkafka ends what it writes into `text` with NUL.
        unsafe {
            let set = rd::rd_kafka_AdminOptions_set_request_timeout(
                asking.options,
                millis(GIVE_UP),
                text.as_mut_ptr(),
                text.len(),
            );
            if set != NO_ERROR {
                return Err(Failure::new(set, CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()));
            }
        }
        Ok(asking)
    }

    /// Waits for the answer.
    fn wait(&mut self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the queue is alive; the event is destroyed by `drop`, and its text is copied.
        unsafe {
            self.event = rd::rd_kafka_queue_poll(self.queue, millis(timeout));
            if self.event.is_null() {
                let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT;
                return Err(Failure::new(code, "no answer in time".to_owned()));
            }
            let code = rd::rd_kafka_event_error(self.event);
            if code != NO_ERROR {
                return Err(Failure::new(code, owned(rd::rd_kafka_event_error_string(self.event))));
            }
        }
        Ok(())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // SAFETY: each pointer is null or was created by the matching constructor and is destroyed once; the event,
        // which the results live in, goes first.
        unsafe {
            if !self.event.is_null() {
                rd::rd_kafka_event_destroy(self.event);
            }
            if !self.queue.is_null() {
                rd::rd_kafka_queue_destroy(self.queue);
            }
            if !self.options.is_null() {
                rd::rd_kafka_AdminOptions_destroy(self.options);
            }
        }
    }
}

/// The request of one ListConsumerGroupOffsets call.
struct OffsetsOf(*mut rd::rd_kafka_ListConsumerGroupOffsets_t);

impl Drop for OffsetsOf {
    fn drop(&mut self) {
        // SAFETY: made by the matching constructor, destroyed once.
        unsafe {
            if !self.0.is_null() {
                rd::rd_kafka_ListConsumerGroupOffsets_destroy(self.0);
            }
        }
    }
}

/// SAFETY: `text` is null or ends with NUL, and does not change during the call.
unsafe fn owned(text: *const c_char) -> String {
    // SAFETY: by the caller.
    if text.is_null() {
        String::new()
    } else {
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// Why a native call failed.
pub(super) struct Failure {
    pub(super) code: RDKafkaErrorCode,
    pub(super) message: String,
}

impl Failure {
    fn new(code: rd::rd_kafka_resp_err_t, message: String) -> Failure {
        Failure { code: code.into(), message }
    }

    fn nul() -> Failure {
        let code = rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG;
        Failure::new(code, "a name with a NUL byte".to_owned())
    }
}

/// The committed offsets of any group, without joining it. With `require_stable`: an offset inside an open transaction
/// comes back as an error of its partition. `None` asks for every partition that has a commit. Offset -1001 means no
/// commit.
pub(super) fn list_group_offsets<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    partitions: Option<&[(&str, i32)]>,
    timeout: Duration,
) -> Result<Vec<Element>, Failure> {
    let group = CString::new(group).map_err(|_| Failure::nul())?;
    let list = match partitions {
        Some(partitions) => Some(List::new(partitions).ok_or_else(Failure::nul)?),
        None => None,
    };
    let mut call = Asking::new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS)?;
    // SAFETY: the client is alive during the call, and what is created here is destroyed on return. The request copies
    // group and list. The results live in the event and are copied before it is destroyed.
    unsafe {
        let mut request = OffsetsOf(rd::rd_kafka_ListConsumerGroupOffsets_new(
            group.as_ptr(),
            list.as_ref().map_or(ptr::null(), |l| l.0.cast_const()),
        ));
        let stable = rd::rd_kafka_AdminOptions_set_require_stable_offsets(call.options, 1);
        if !stable.is_null() {
            let failure = error(stable);
            rd::rd_kafka_error_destroy(stable);
            return Err(failure);
        }
        rd::rd_kafka_ListConsumerGroupOffsets(
            client.native_ptr(),
            &mut request.0,
            1,
            call.options,
            call.queue,
        );
        call.wait(timeout)?;
        let result = rd::rd_kafka_event_ListConsumerGroupOffsets_result(call.event);
        let mut count = 0;
        let groups = rd::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count);
        if groups.is_null() || count == 0 {
            return Ok(Vec::new());
        }
        let group = *groups;
        let failed = rd::rd_kafka_group_result_error(group);
        if !failed.is_null() {
            return Err(error(failed));
        }
        Ok(elements(rd::rd_kafka_group_result_partitions(group)))
    }
}

/// A member of a group, copied out.
pub(super) struct Described {
    pub(super) client_id: String,
    pub(super) host: String,
    pub(super) partitions: Vec<Element>,
}

/// The members of a group with what is assigned to each, of the classic protocol and of KIP-848's. During a rebalance of
/// the classic protocol the broker names the members without their partitions. Empty for a group that does not exist.
pub(super) fn describe_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<Vec<Described>, Failure> {
    let group = CString::new(group).map_err(|_| Failure::nul())?;
    let mut call = Asking::new(client, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS)?;
    // SAFETY: the client is alive during the call, the group's name is copied, and the results, which live in the event,
    // are copied before it is destroyed. The members that are counted are there.
    unsafe {
        let mut groups = [group.as_ptr()];
        rd::rd_kafka_DescribeConsumerGroups(
            client.native_ptr(),
            groups.as_mut_ptr(),
            groups.len(),
            call.options,
            call.queue,
        );
        call.wait(timeout)?;
        let result = rd::rd_kafka_event_DescribeConsumerGroups_result(call.event);
        let mut count = 0;
        let groups = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if groups.is_null() || count == 0 {
            return Ok(Vec::new());
        }
        let group = *groups;
        let failed = rd::rd_kafka_ConsumerGroupDescription_error(group);
        if !failed.is_null() {
            return match rd::rd_kafka_error_code(failed) {
                rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND => Ok(Vec::new()),
                _ => Err(error(failed)),
            };
        }
        let members = rd::rd_kafka_ConsumerGroupDescription_member_count(group);
        let member = |at: usize| {
            let member = rd::rd_kafka_ConsumerGroupDescription_member(group, at);
            let assignment = rd::rd_kafka_MemberDescription_assignment(member);
            let list = match assignment.is_null() {
                true => ptr::null(),
                false => rd::rd_kafka_MemberAssignment_partitions(assignment),
            };
            Described {
                client_id: owned(rd::rd_kafka_MemberDescription_client_id(member)),
                host: owned(rd::rd_kafka_MemberDescription_host(member)),
                partitions: elements(list),
            }
        };
        Ok((0..members).map(member).collect())
    }
}

/// SAFETY: `e` points to a live error.
unsafe fn error(e: *const rd::rd_kafka_error_t) -> Failure {
    // SAFETY: by the caller; the text is copied.
    unsafe {
        let message = CStr::from_ptr(rd::rd_kafka_error_string(e)).to_string_lossy().into_owned();
        Failure::new(rd::rd_kafka_error_code(e), message)
    }
}

/// The broker addresses of the mock cluster inside a client, after its group rebalance delay was set to 0.
pub(super) fn mock_start<C: ClientContext>(client: &Client<C>) -> Option<String> {
    // SAFETY: the cluster belongs to the client, which is alive; the text is copied.
    unsafe {
        let cluster = rd::rd_kafka_handle_mock_cluster(client.native_ptr());
        if cluster.is_null() {
            return None;
        }
        rd::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
        Some(CStr::from_ptr(rd::rd_kafka_mock_cluster_bootstraps(cluster)).to_string_lossy().into_owned())
    }
}

/// Creates a topic in the mock cluster inside a client.
pub(super) fn mock_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partitions: i32,
) -> Result<(), RDKafkaErrorCode> {
    let topic = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    // SAFETY: the cluster belongs to the client, which is alive; the name is copied.
    unsafe {
        let cluster = rd::rd_kafka_handle_mock_cluster(client.native_ptr());
        if cluster.is_null() {
            return Err(RDKafkaErrorCode::InvalidArgument);
        }
        match rd::rd_kafka_mock_topic_create(cluster, topic.as_ptr(), partitions, 1) {
            NO_ERROR => Ok(()),
            code => Err(code.into()),
        }
    }
}
