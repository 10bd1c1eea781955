use super::*;
use crate::testing::session;

fn active(nonce: &str) -> Session {
    Session { phase: SessionPhase::Active, ..session(nonce) }
}

fn before_expiry(session: &Session) -> Timestamp {
    session.expires_at - jiff::SignedDuration::from_secs(1)
}

#[test]
fn open_counts_are_shared_by_all_sessions_of_a_user_and_dropped_with_the_last() {
    let live = LiveSet::default();
    let mut other = active("c");
    other.user.subject = "another user".to_owned();
    let (first, second) = (active("a"), active("b"));
    live.apply(SessionEvent::All(vec![first.clone(), second.clone(), other.clone()]));
    let open = |session: &Session| live.get(&session.id).unwrap().open.clone();
    assert!(Arc::ptr_eq(&open(&first), &open(&second)));
    assert!(!Arc::ptr_eq(&open(&first), &open(&other)));
    let held = open(&first);
    live.apply(SessionEvent::Ended(first.id));
    live.apply(SessionEvent::All(vec![second.clone()]));
    live.apply(SessionEvent::Is(first.clone()));
    assert!(Arc::ptr_eq(&open(&first), &held));

    let many = (0..UNUSED_USERS_MAX + 2).map(|index| {
        let mut session = active(&index.to_string());
        session.user.subject = index.to_string();
        session
    });
    live.apply(SessionEvent::All(many.collect()));
    live.apply(SessionEvent::All(vec![]));
    live.apply(SessionEvent::Is(first));
    assert_eq!(live.read().users.len(), 1);
}

#[test]
fn pending_session_is_not_admitted_until_active() {
    let set = LiveSet::default();
    let pending = session("a");
    set.apply(SessionEvent::Is(pending.clone()));
    let held = set.get(&pending.id).unwrap();
    assert!(!held.admits(before_expiry(&pending)));
    set.apply(SessionEvent::Is(active("a")));
    assert!(held.admits(before_expiry(&pending)));
    assert!(!held.admits(pending.expires_at));
}

/// Regression: a request was cut because the watch event of the login arrived after a look-up had returned the active session.
#[test]
fn late_pending_event_does_not_deactivate_a_session() {
    let set = LiveSet::default();
    let session = active("a");
    let held = set.looked_up(session.id, Some(&session)).unwrap();
    set.apply(SessionEvent::Is(self::session("a")));
    assert!(held.admits(before_expiry(&session)));
}

#[test]
fn held_session_ends_with_its_watch_event() {
    let set = LiveSet::default();
    let session = active("a");
    set.apply(SessionEvent::Is(session.clone()));
    let held = set.get(&session.id).unwrap();
    set.apply(SessionEvent::Ended(session.id));
    assert!(!held.admits(before_expiry(&session)));
    assert!(set.get(&session.id).is_none());
}

#[test]
fn complete_list_ends_missing_sessions_and_keeps_the_others() {
    let set = LiveSet::default();
    assert!(!set.is_complete());
    let (stays, goes) = (active("stays"), active("goes"));
    set.apply(SessionEvent::All(vec![stays.clone(), goes.clone()]));
    assert!(set.is_complete());
    let (held_stays, held_goes) = (set.get(&stays.id).unwrap(), set.get(&goes.id).unwrap());
    set.apply(SessionEvent::All(vec![stays.clone()]));
    assert!(held_stays.admits(before_expiry(&stays)));
    assert!(!held_goes.admits(before_expiry(&goes)));
    assert_eq!(set.len(), 1);
}

#[test]
fn recreated_session_does_not_revive_an_ended_one() {
    let set = LiveSet::default();
    let session = active("a");
    set.apply(SessionEvent::Is(session.clone()));
    let held = set.get(&session.id).unwrap();
    set.apply(SessionEvent::Ended(session.id));
    set.apply(SessionEvent::Is(session.clone()));
    assert!(!held.admits(before_expiry(&session)));
    assert!(set.get(&session.id).unwrap().admits(before_expiry(&session)));
}

#[test]
fn looked_up_session_is_no_member_and_ends_with_its_watch_event() {
    let set = LiveSet::default();
    let session = active("a");
    let held = set.looked_up(session.id, Some(&session)).unwrap();
    assert!(held.admits(before_expiry(&session)));
    assert!(set.get(&session.id).is_none());
    set.apply(SessionEvent::Ended(session.id));
    assert!(!held.admits(before_expiry(&session)));
    // A response that was in flight when the session ended.
    assert!(set.looked_up(session.id, Some(&session)).is_none());
}

#[test]
fn session_held_from_several_look_ups_ends_for_every_holder() {
    let set = LiveSet::default();
    for (nonce, end) in [("a", true), ("b", false)] {
        let session = active(nonce);
        let look = || set.looked_up(session.id, Some(&session)).unwrap();
        let (first, second) = (look(), look());
        assert!(first.admits(before_expiry(&session)));
        if end {
            set.apply(SessionEvent::Ended(session.id));
        } else {
            set.looked_up(session.id, None);
        }
        assert!(!first.admits(before_expiry(&session)) && !second.admits(before_expiry(&session)));
    }
}

#[test]
fn watch_turns_a_looked_up_session_into_a_member() {
    let set = LiveSet::default();
    let session = active("a");
    let held = set.looked_up(session.id, Some(&session)).unwrap();
    set.apply(SessionEvent::Is(session.clone()));
    assert!(Arc::ptr_eq(&held, &set.get(&session.id).unwrap()));
    set.apply(SessionEvent::All(vec![]));
    assert!(!held.admits(before_expiry(&session)));
}

#[test]
fn unlisted_looked_up_session_is_reported_while_held() {
    let set = LiveSet::default();
    let (held, left, listed) = (active("held"), active("left"), active("listed"));
    let look = |session: &Session| set.looked_up(session.id, Some(session)).unwrap();
    let (of_held, of_listed) = (look(&held), look(&listed));
    drop(look(&left));
    let list = || SessionEvent::All(vec![listed.clone()]);
    assert_eq!(set.apply(list()), [held.id]);
    assert_eq!(set.apply(list()), [held.id], "reported until it is listed or released");
    assert!(of_held.admits(before_expiry(&held)));
    set.release(&held.id);
    assert!(!of_held.admits(before_expiry(&held)) && !set.has_ended(&held.id));
    assert_eq!(set.apply(list()), []);
    // Only the watch ends a session that it has shown.
    set.release(&listed.id);
    assert!(of_listed.admits(before_expiry(&listed)));
}

#[test]
fn session_missing_from_the_store_is_cached_as_ended() {
    let set = LiveSet::default();
    let session = active("a");
    assert!(set.looked_up(session.id, None).is_none() && set.has_ended(&session.id));
    // Restored from a backup.
    set.apply(SessionEvent::Is(session.clone()));
    assert!(set.get(&session.id).unwrap().admits(before_expiry(&session)));
}

#[test]
fn longest_idle_sessions_of_a_user_are_surplus_above_the_cap() {
    let set = LiveSet::default();
    let at = |nonce: &str, minutes: i64| {
        let base = active(nonce);
        Session { rotated_at: base.rotated_at + jiff::SignedDuration::from_mins(minutes), ..base }
    };
    let mut other = at("other", 0);
    other.user.subject = "5678".to_owned();
    let (idle, fresh, new) = (at("idle", 1), at("fresh", 9), at("new", 10));
    set.apply(SessionEvent::All(vec![fresh.clone(), idle.clone(), other, new.clone()]));
    assert_eq!(set.surplus(&new, 3), []);
    assert_eq!(set.surplus(&new, 2), [idle.id]);
    assert_eq!(set.surplus(&new, 1), [idle.id, fresh.id]);
}

#[test]
fn look_up_updates_a_stale_member() {
    let set = LiveSet::default();
    let pending = session("a");
    set.apply(SessionEvent::All(vec![pending.clone()]));
    let looked_up = set.looked_up(pending.id, Some(&active("a"))).unwrap();
    assert!(looked_up.admits(before_expiry(&pending)));
    // A response older than the watch's state changes nothing.
    let refreshed = Session {
        rotated_at: pending.rotated_at + jiff::SignedDuration::from_mins(1),
        expires_at: pending.expires_at + jiff::SignedDuration::from_mins(1),
        ..active("a")
    };
    set.apply(SessionEvent::Is(refreshed.clone()));
    set.looked_up(pending.id, Some(&active("a")));
    assert!(set.get(&pending.id).unwrap().admits(before_expiry(&refreshed)));
}
