use super::*;
use crate::session::tests::session;

fn active(nonce: &str) -> Session {
    Session { phase: SessionPhase::Active, ..session(nonce) }
}

fn before_expiry(session: &Session) -> Timestamp {
    session.expires_at - jiff::SignedDuration::from_secs(1)
}

#[test]
fn what_a_person_has_open_is_one_for_all_their_sessions_and_forgotten_after_the_last() {
    let live = LiveSet::default();
    let mut other = active("c");
    other.user.subject = "somebody else".to_owned();
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

    let many = (0..FORGOTTEN_AT_ONCE + 2).map(|index| {
        let mut session = active(&index.to_string());
        session.user.subject = index.to_string();
        session
    });
    live.apply(SessionEvent::All(many.collect()));
    live.apply(SessionEvent::All(vec![]));
    live.apply(SessionEvent::Is(first));
    assert_eq!(live.read().people.len(), 1);
}

#[test]
fn a_pending_session_admits_nobody_until_it_is_active() {
    let set = LiveSet::default();
    let pending = session("a");
    set.apply(SessionEvent::Is(pending.clone()));
    let held = set.get(&pending.id).unwrap();
    assert!(!held.admits(before_expiry(&pending)));
    set.apply(SessionEvent::Is(active("a")));
    assert!(held.admits(before_expiry(&pending)));
    assert!(!held.admits(pending.expires_at));
}

/// A request was cut because the watch told of the login after a look-up had told of what came of it.
#[test]
fn what_the_watch_says_late_of_the_login_does_not_take_an_active_session_back() {
    let set = LiveSet::default();
    let session = active("a");
    let held = set.looked_up(session.id, Some(&session)).unwrap();
    set.apply(SessionEvent::Is(self::session("a")));
    assert!(held.admits(before_expiry(&session)));
}

#[test]
fn who_holds_a_session_sees_it_end() {
    let set = LiveSet::default();
    let session = active("a");
    set.apply(SessionEvent::Is(session.clone()));
    let held = set.get(&session.id).unwrap();
    set.apply(SessionEvent::Ended(session.id));
    assert!(!held.admits(before_expiry(&session)));
    assert!(set.get(&session.id).is_none());
}

#[test]
fn a_complete_list_ends_what_is_missing_and_keeps_what_is_there() {
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
fn a_session_that_comes_back_does_not_revive_what_ended() {
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
fn who_holds_a_session_that_was_only_looked_up_sees_it_end_and_it_is_no_member() {
    let set = LiveSet::default();
    let session = active("a");
    let held = set.looked_up(session.id, Some(&session)).unwrap();
    assert!(held.admits(before_expiry(&session)));
    assert!(set.get(&session.id).is_none());
    set.apply(SessionEvent::Ended(session.id));
    assert!(!held.admits(before_expiry(&session)));
    // An answer that was on its way when it ended.
    assert!(set.looked_up(session.id, Some(&session)).is_none());
}

#[test]
fn whoever_holds_a_session_from_any_of_its_look_ups_sees_it_end() {
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
fn the_watch_makes_a_member_of_what_was_looked_up() {
    let set = LiveSet::default();
    let session = active("a");
    let held = set.looked_up(session.id, Some(&session)).unwrap();
    set.apply(SessionEvent::Is(session.clone()));
    assert!(Arc::ptr_eq(&held, &set.get(&session.id).unwrap()));
    set.apply(SessionEvent::All(vec![]));
    assert!(!held.admits(before_expiry(&session)));
}

#[test]
fn what_was_looked_up_and_is_in_no_list_is_named_as_long_as_somebody_holds_it() {
    let set = LiveSet::default();
    let (held, left, listed) = (active("held"), active("left"), active("listed"));
    let look = |session: &Session| set.looked_up(session.id, Some(session)).unwrap();
    let (of_held, of_listed) = (look(&held), look(&listed));
    drop(look(&left));
    let list = || SessionEvent::All(vec![listed.clone()]);
    assert_eq!(set.apply(list()), [held.id]);
    assert_eq!(set.apply(list()), [held.id], "as long as nothing speaks for it");
    assert!(of_held.admits(before_expiry(&held)));
    set.let_go(&held.id);
    assert!(!of_held.admits(before_expiry(&held)) && !set.has_ended(&held.id));
    assert_eq!(set.apply(list()), []);
    // What the watch has shown is let go by the watch alone.
    set.let_go(&listed.id);
    assert!(of_listed.admits(before_expiry(&listed)));
}

#[test]
fn what_the_store_does_not_have_is_remembered_as_ended() {
    let set = LiveSet::default();
    let session = active("a");
    assert!(set.looked_up(session.id, None).is_none() && set.has_ended(&session.id));
    // Restored from a backup.
    set.apply(SessionEvent::Is(session.clone()));
    assert!(set.get(&session.id).unwrap().admits(before_expiry(&session)));
}

#[test]
fn beyond_the_cap_the_longest_idle_sessions_of_the_same_person_are_surplus() {
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
fn a_member_that_is_behind_its_record_is_brought_up_to_it() {
    let set = LiveSet::default();
    let pending = session("a");
    set.apply(SessionEvent::All(vec![pending.clone()]));
    let looked_up = set.looked_up(pending.id, Some(&active("a"))).unwrap();
    assert!(looked_up.admits(before_expiry(&pending)));
    // An answer that is older than what the watch has shown changes nothing.
    let refreshed = Session {
        rotated_at: pending.rotated_at + jiff::SignedDuration::from_mins(1),
        expires_at: pending.expires_at + jiff::SignedDuration::from_mins(1),
        ..active("a")
    };
    set.apply(SessionEvent::Is(refreshed.clone()));
    set.looked_up(pending.id, Some(&active("a")));
    assert!(set.get(&pending.id).unwrap().admits(before_expiry(&refreshed)));
}
