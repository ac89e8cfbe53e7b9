use super::*;
use crate::counter::{Key, Rejection};

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).expect("a valid key")
}

fn count(name: &str, by: i64) -> Command {
    Command::Increment { key: key(name), by }
}

fn complete(batch: &mut Batch<u32>, error: StoreError) -> Vec<(u32, Result<i64, StoreError>)> {
    let mut results = Vec::new();
    batch.complete(error, |waiter, total| results.push((waiter, total)));
    results
}

#[test]
fn numbers_are_distributed_in_the_order_of_arrival() {
    let mut batch = Batch::default();
    let total = Command::Get { key: key("a") };
    let commands = [count("a", 1), count("b", 1), count("a", 3), total, count("a", 1), Command::Ping, total];
    for (waiter, command) in (0..).zip(commands) {
        assert!(batch.push(&command, waiter));
    }
    assert_eq!(
        batch.pending_commands().copied().collect::<Vec<_>>(),
        [count("a", 5), count("b", 1), total, Command::Ping]
    );
    for total in [Ok(105), Ok(7), Ok(105), Ok(0)] {
        batch.record_reply(total);
    }
    assert_eq!(batch.next_command(), None);
    assert_eq!(batch.replies().last(), Some((&Command::Ping, Ok(0))));
    let numbers = [101, 7, 104, 105, 105, 0, 105];
    let expected: Vec<_> = (0..).zip(numbers.map(Ok)).collect();
    assert_eq!(complete(&mut batch, StoreError::OutcomeUnknown), expected);
    assert!(batch.is_empty() && batch.pending_commands().next().is_none());
}

#[test]
fn entries_without_a_reply_end_in_the_error() {
    for (error, read) in [
        (StoreError::OutcomeUnknown, StoreError::Unavailable),
        (StoreError::Rejected(Rejection::Busy), StoreError::Rejected(Rejection::Busy)),
    ] {
        let mut batch = Batch::default();
        for (waiter, command) in (0..).zip([count("a", 1), count("b", 1), Command::Get { key: key("a") }]) {
            assert!(batch.push(&command, waiter));
        }
        batch.record_reply(Ok(9));
        assert_eq!(complete(&mut batch, error), [(0, Ok(9)), (1, Err(error)), (2, Err(read))]);
    }
}

#[test]
fn a_later_batch_merges_into_one_that_was_not_sent() {
    let (mut unsent, mut later) = (Batch::default(), Batch::default());
    for (waiter, command) in (0..).zip([count("a", 2), count("a", 1), Command::Ping]) {
        assert!(unsent.push(&command, waiter));
    }
    assert!(later.push(&count("a", 1), 3));
    later.push_probe(&count("b", 0));
    unsent.merge(&mut later);
    assert!(later.is_empty() && later.pending_commands().next().is_none());
    assert_eq!(unsent.pending_commands().copied().collect::<Vec<_>>(), [count("a", 4), Command::Ping, count("b", 0)]);
    for total in [Ok(4), Ok(0), Ok(9)] {
        unsent.record_reply(total);
    }
    assert_eq!(complete(&mut unsent, StoreError::OutcomeUnknown), [(0, Ok(2)), (1, Ok(3)), (2, Ok(0)), (3, Ok(4))]);
}

fn expired(batch: &mut Batch<u32>, error: StoreError, until: u32) -> Vec<(u32, Result<i64, StoreError>)> {
    let mut expired = Vec::new();
    batch.expire(error, |&waiter| waiter < until, |waiter, total| expired.push((waiter, total)));
    expired
}

#[test]
fn visits_that_expire_before_the_batch_is_sent_are_withdrawn() {
    let mut batch = Batch::default();
    let commands = [count("a", 2), count("b", 1), count("a", 1), Command::Ping, count("a", 4)];
    for (waiter, command) in (0..).zip(commands) {
        assert!(batch.push(&command, waiter));
    }
    assert_eq!(
        expired(&mut batch, StoreError::Unavailable, 2),
        [(0, Err(StoreError::Unavailable)), (1, Err(StoreError::Unavailable))]
    );
    assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), [count("a", 5), Command::Ping]);
    // The entry whose visits were all withdrawn was removed.
    assert!(batch.push(&count("b", 3), 5));
    batch.set_sequence(1);
    assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), [count("a", 5), Command::Ping, count("b", 3)]);
    for total in [Ok(105), Ok(0), Ok(7)] {
        batch.record_reply(total);
    }
    assert_eq!(batch.next_command(), None);
    assert_eq!(complete(&mut batch, StoreError::OutcomeUnknown), [(2, Ok(101)), (3, Ok(0)), (4, Ok(105)), (5, Ok(7))]);
}

#[test]
fn a_batch_whose_visits_have_all_expired_has_no_commands() {
    for (probe, commands) in [(false, vec![]), (true, vec![count("a", 0)])] {
        let mut batch = Batch::default();
        assert!(batch.push(&count("a", 2), 0) && batch.push(&count("b", 1), 1));
        if probe {
            batch.push_probe(&count("a", 0));
        }
        assert_eq!(expired(&mut batch, StoreError::Unavailable, 2).len(), 2);
        assert_eq!((batch.is_empty(), batch.waiter_count()), (!probe, 0));
        batch.set_sequence(1);
        assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), commands);
        assert_eq!(batch.next_command(), commands.first());
    }
}

#[test]
fn visits_that_expire_in_flight_stay_in_the_batch() {
    let mut batch = Batch::default();
    for (waiter, command) in (0..).zip([count("a", 2), count("b", 1), count("a", 1), Command::Ping]) {
        assert!(batch.push(&command, waiter));
    }
    batch.set_sequence(1);
    batch.record_reply(Ok(9));
    let sent: Vec<_> = batch.pending_commands().copied().collect();
    let expired_first = expired(&mut batch, StoreError::OutcomeUnknown, 2);
    assert_eq!(expired_first, [(0, Ok(8)), (1, Err(StoreError::OutcomeUnknown))]);
    assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), sent);
    assert_eq!(
        expired(&mut batch, StoreError::OutcomeUnknown, 4),
        [(2, Ok(9)), (3, Err(StoreError::Unavailable))],
        "a read is not in doubt"
    );
    assert!(!batch.is_empty() && batch.waiter_count() == 0, "its replies are outstanding");
}

#[test]
fn each_name_has_one_entry_and_their_number_is_bounded() {
    let mut batch = Batch::default();
    let names = MAX_ENTRIES as u32;
    for waiter in 0..2 * names {
        // Not in sorted order: the step and the number of names are coprime.
        assert!(batch.push(&count(&format!("k{}", waiter * 7 % names), 1), waiter));
    }
    assert!(!batch.push(&count("k", 1), 0) && !batch.push(&Command::Ping, 0));
    assert_eq!(batch.pending_commands().count(), MAX_ENTRIES);
    for total in 0..i64::from(names) {
        batch.record_reply(Ok(10 * total));
    }
    let results = complete(&mut batch, StoreError::OutcomeUnknown);
    let expected = (0..2 * names).map(|waiter| {
        let entry = i64::from(waiter % names);
        (waiter, Ok(10 * entry - 1 + i64::from(waiter / names)))
    });
    assert_eq!(results, expected.collect::<Vec<_>>());
}

#[test]
fn commands_with_a_reply_are_not_sent_again() {
    let mut batch = Batch::default();
    for (waiter, command) in (0..).zip([count("a", 1), count("b", 2), Command::Ping]) {
        assert!(batch.push(&command, waiter));
    }
    batch.set_sequence(7);
    batch.record_reply(Ok(1));
    assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), [count("b", 2), Command::Ping]);
    assert_eq!(batch.sequence(), 7);
}

/// A batch of the counters `a`, `b`, `a` and `c`, a read of `a`, and a probe; it was sent, and the store refused `b`
/// and `c`.
fn refused_in_part(refusal: StoreError) -> Batch<u32> {
    let mut batch = Batch::default();
    let commands = [count("a", 1), count("b", 1), count("a", 1), count("c", 1), Command::Get { key: key("a") }];
    for (waiter, command) in (0..).zip(commands) {
        assert!(batch.push(&command, waiter));
    }
    batch.push_probe(&Command::Ping);
    for reply in [Ok(7), Err(refusal), Err(refusal)] {
        match reply {
            Ok(total) => batch.record_reply(Ok(total)),
            Err(refusal) => batch.record_refusal(refusal),
        }
    }
    batch
}

#[test]
fn commands_that_were_refused_are_sent_again() {
    let [one, other] = [Rejection::Permission, Rejection::NoReplicas].map(StoreError::Rejected);
    let mut batch = refused_in_part(one);
    batch.record_refusal(other);
    batch.record_reply(Ok(0));
    assert_eq!(batch.next_command(), None);
    batch.retry_refused(|refusal| refusal == one);
    assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), [count("b", 1), count("c", 1)]);
    batch.record_reply(Ok(8));
    assert_eq!(batch.next_command(), Some(&count("c", 1)));
    batch.record_reply(Ok(9));
    let refused: Vec<_> = batch.refusals().map(|(command, refusal)| (*command, refusal)).collect();
    assert_eq!(refused, [(Command::Get { key: key("a") }, other)]);
    batch.retry_refused(|_| true);
    batch.record_reply(Ok(7));
    let results = complete(&mut batch, StoreError::OutcomeUnknown);
    assert_eq!(results, [(0, Ok(6)), (1, Ok(8)), (2, Ok(7)), (3, Ok(9)), (4, Ok(7))]);
}

#[test]
fn a_batch_that_was_refused_in_part_is_divided() {
    let refusal = StoreError::Rejected(Rejection::NoReplicas);
    for include_reads in [false, true] {
        let mut batch = refused_in_part(refusal);
        let mut replied = batch.take_replied();
        assert_eq!(complete(&mut replied, StoreError::OutcomeUnknown), [(0, Ok(6)), (2, Ok(7))]);
        let mut unsent = batch.take_unsent(include_reads);
        let read = [Command::Get { key: key("a") }, Command::Ping];
        let expected = [&[count("b", 1), count("c", 1)][..], if include_reads { &read } else { &[] }].concat();
        assert_eq!(unsent.pending_commands().copied().collect::<Vec<_>>(), expected);
        let rest: &[Command] = if include_reads { &[] } else { &read };
        assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), rest);
        assert_eq!((batch.next_command(), batch.is_empty()), (rest.first(), include_reads));
        // More visits may join those that are sent later.
        assert!(unsent.push(&count("c", 1), 9));
        unsent.set_sequence(8);
        (1..=expected.len() as i64).for_each(|total| unsent.record_reply(Ok(total)));
        let results = complete(&mut unsent, StoreError::OutcomeUnknown);
        let read = include_reads.then_some((4, Ok(3)));
        let expected: Vec<_> = [(1, Ok(1)), (3, Ok(1))].into_iter().chain(read).chain([(9, Ok(2))]).collect();
        assert_eq!(results, expected);
    }
}

#[test]
fn a_visit_that_expires_after_a_refusal_is_withdrawn_unless_it_was_sent_before() {
    let refusal = StoreError::Rejected(Rejection::NoReplicas);
    for (was_sent, result, left) in [(false, StoreError::Unavailable, 1), (true, StoreError::OutcomeUnknown, 2)] {
        let mut batch = Batch::default();
        for (waiter, command) in (0..).zip([count("a", 1), count("a", 1), Command::Get { key: key("a") }]) {
            assert!(batch.push(&command, waiter));
        }
        if was_sent {
            batch.mark_sent();
        }
        batch.record_refusal(refusal);
        assert_eq!(expired(&mut batch, StoreError::OutcomeUnknown, 1), [(0, Err(result))]);
        batch.retry_refused(|_| true);
        assert_eq!(batch.next_command(), Some(&count("a", left)));
        batch.record_reply(Ok(7));
        batch.record_reply(Err(refusal));
        assert_eq!(complete(&mut batch, StoreError::OutcomeUnknown), [(1, Ok(7)), (2, Err(refusal))]);
    }
}

#[test]
fn reads_join_a_batch_that_is_sent_again() {
    let mut batch = Batch::default();
    assert!(batch.push(&count("a", 1), 0));
    batch.set_sequence(7);
    batch.mark_sent();
    let mut later = Batch::default();
    for (waiter, command) in (1..).zip([Command::Get { key: key("a") }, count("b", 1), Command::Ping]) {
        assert!(later.push(&command, waiter));
    }
    batch.merge_reads(&mut later, |one, other| one < other);
    assert_eq!((batch.sequence(), batch.may_be_applied()), (7, true));
    let reads = [count("a", 1), Command::Get { key: key("a") }, Command::Ping];
    assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), reads);
    assert_eq!(later.pending_commands().copied().collect::<Vec<_>>(), [count("b", 1)]);
    (5..8).for_each(|total| batch.record_reply(Ok(total)));
    assert_eq!(complete(&mut batch, StoreError::OutcomeUnknown), [(0, Ok(5)), (1, Ok(6)), (3, Ok(7))]);
    later.record_reply(Ok(4));
    assert_eq!(complete(&mut later, StoreError::OutcomeUnknown), [(2, Ok(4))]);
}

#[test]
fn names_whose_visits_expired_do_not_take_the_place_of_others() {
    let mut batch = Batch::default();
    let visit = |number: usize| count(&format!("visits:{number}"), 1);
    for number in 0..MAX_ENTRIES {
        assert!(batch.push(&visit(number), number as u32));
    }
    assert!(!batch.push(&visit(MAX_ENTRIES), 0));
    // The last two remain.
    assert_eq!(expired(&mut batch, StoreError::Unavailable, MAX_ENTRIES as u32 - 2).len(), MAX_ENTRIES - 2);
    assert!(batch.push(&visit(MAX_ENTRIES - 1), 7) && batch.push(&visit(0), 8));
    batch.set_sequence(1);
    let sent = [visit(MAX_ENTRIES - 2), count(&format!("visits:{}", MAX_ENTRIES - 1), 2), visit(0)];
    assert_eq!(batch.pending_commands().copied().collect::<Vec<_>>(), sent);
    for total in [Ok(10), Ok(20), Ok(30)] {
        batch.record_reply(total);
    }
    let last = MAX_ENTRIES as u32;
    let results = [(last - 2, Ok(10)), (last - 1, Ok(19)), (7, Ok(20)), (8, Ok(30))];
    assert_eq!(complete(&mut batch, StoreError::OutcomeUnknown), results);
}
