use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

const UNIX: u64 = 1_800_000_000;

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

fn client(id: &str, number: u8) -> RegisteredClient {
    RegisteredClient::new(id.to_owned(), key(number))
}

fn registry(auth: Auth, clients: &[RegisteredClient]) -> Registry {
    Registry::new(auth, clients).unwrap()
}

fn judge(registry: &Registry, key: Option<&PublicKey>) -> Verdict {
    registry.judge(UNIX, Candidate { key, token: None })
}

fn invite(registry: &mut Registry, uses: u32) -> (Token, InviteId) {
    let invite = Invite { name: Some("Ada's laptop".into()), expires_at: UNIX + 60, uses };
    registry.invite(UNIX, invite, &mut StdRng::seed_from_u64(1)).unwrap()
}

#[test]
fn who_comes_in_hangs_on_the_mode() {
    let known = client("a", 1);
    for (auth, unknown, keyless) in [
        (Auth::Open, Verdict::Anyone, Verdict::Anyone),
        (Auth::Registered, Verdict::Refused(Refusal::Unknown), Verdict::Refused(Refusal::NoKey)),
        (Auth::Callback, Verdict::Ask, Verdict::Ask),
    ] {
        let registry = registry(auth, std::slice::from_ref(&known));
        assert_eq!(judge(&registry, Some(&key(1))), Verdict::Known(known.clone()), "{auth:?}");
        assert_eq!(judge(&registry, Some(&key(2))), unknown);
        assert_eq!(judge(&registry, None), keyless);
    }
}

#[test]
fn disabled_and_expired_clients_stay_outside_in_every_mode() {
    let disabled = RegisteredClient { disabled: true, ..client("a", 1) };
    let expired = RegisteredClient { expires_at: Some(UNIX), ..client("b", 2) };
    let good = RegisteredClient { expires_at: Some(UNIX + 1), ..client("c", 3) };
    for auth in [Auth::Open, Auth::Registered, Auth::Callback] {
        let registry = registry(auth, &[disabled.clone(), expired.clone(), good.clone()]);
        assert_eq!(judge(&registry, Some(&key(1))), Verdict::Refused(Refusal::Disabled));
        assert_eq!(judge(&registry, Some(&key(2))), Verdict::Refused(Refusal::Expired));
        assert_eq!(judge(&registry, Some(&key(3))), Verdict::Known(good.clone()));
    }
}

#[test]
fn ids_keys_and_addresses_belong_to_one_client() {
    let addr = Some([10, 8, 0, 9].into());
    let many = RegisteredClient { max_sessions: 3, assigned_ip: addr, ..client("a", 1) };
    let mut registry = registry(Auth::Registered, &[many]);
    let taken = |registry: &mut Registry, client| registry.add(client).unwrap_err();
    assert_eq!(taken(&mut registry, client("a", 2)), RegistryError::IdTaken("a".into()));
    assert_eq!(taken(&mut registry, client("a.3", 2)), RegistryError::IdTaken("a.3".into()));
    assert_eq!(taken(&mut registry, client("b", 1)), RegistryError::KeyTaken("a".into()));
    let same_address = RegisteredClient { assigned_ip: addr, ..client("b", 2) };
    assert_eq!(
        taken(&mut registry, same_address),
        RegistryError::AddressTaken([10, 8, 0, 9].into(), "a".into())
    );
    let long = RegisteredClient { max_sessions: 2, ..client(&"x".repeat(63), 2) };
    assert!(matches!(taken(&mut registry, long), RegistryError::IdTooLong(_)));
    registry.add(client("a.4", 2)).unwrap();
    assert_eq!(registry.owner("a.3").unwrap().id, "a");
    assert_eq!(registry.clients().len(), 2);
}

#[test]
fn an_update_that_cannot_be_changes_nothing() {
    let mut registry = registry(Auth::Registered, &[client("a", 1), client("b", 2)]);
    assert!(registry.update(client("b", 1)).is_err());
    assert_eq!(registry.by_key(&key(2)).unwrap().id, "b");
    assert_eq!(registry.update(client("c", 3)), Err(RegistryError::NoSuchClient("c".into())));
    assert_eq!(registry.update(client("b", 3)), Ok(client("b", 2)));
    assert_eq!((registry.by_key(&key(2)), registry.by_key(&key(3))), (None, Some(&client("b", 3))));
}

#[test]
fn a_resume_needs_the_registration_that_its_session_had() {
    let mut registry = registry(Auth::Registered, &[client("a", 1), client("b", 2)]);
    let resume = |registry: &Registry, number: u8, session| {
        registry.judge_resume(UNIX, Some(&key(number)), session).map(|client| client.map(|it| it.id.clone()))
    };
    assert_eq!(resume(&registry, 1, "a"), Ok(Some("a".into())));
    assert_eq!(resume(&registry, 2, "a"), Err(Refusal::Unknown));
    assert_eq!(resume(&registry, 3, "a"), Err(Refusal::Unknown));
    assert_eq!(registry.judge_resume(UNIX, None, "c"), Err(Refusal::NoKey));
    registry.update(RegisteredClient { disabled: true, ..client("a", 1) }).unwrap();
    assert_eq!(resume(&registry, 1, "a"), Err(Refusal::Disabled));
    registry.remove("a").unwrap();
    assert_eq!(resume(&registry, 1, "a"), Err(Refusal::Unknown));

    let open = Registry::new(Auth::Open, &[client("a", 1)]).unwrap();
    assert_eq!(open.judge_resume(UNIX, None, "c"), Ok(None));
    assert_eq!(open.judge_resume(UNIX, None, "a"), Err(Refusal::Unknown));
}

#[test]
fn registrations_expire_once_and_when_they_are_due() {
    let until = |at| RegisteredClient { expires_at: Some(at), ..client("a", 1) };
    let mut registry = registry(Auth::Registered, &[until(UNIX + 10), client("b", 2)]);
    assert_eq!(registry.next_expiry(), Some(UNIX + 10));
    assert_eq!(registry.expire(UNIX + 9), []);
    assert_eq!(registry.expire(UNIX + 10), [until(UNIX + 10)]);
    assert_eq!((registry.expire(UNIX + 11), registry.next_expiry()), (vec![], None));
    registry.update(until(UNIX + 20)).unwrap();
    assert_eq!(registry.next_expiry(), Some(UNIX + 20));
    registry.remove("a").unwrap();
    assert_eq!(registry.next_expiry(), None);
}

#[test]
fn an_invite_registers_as_many_keys_as_it_may_and_only_confirmed_ones() {
    for auth in [Auth::Open, Auth::Registered, Auth::Callback] {
        let mut registry = registry(auth, &[]);
        let (token, id) = invite(&mut registry, 2);
        let shown = |registry: &Registry, number| {
            registry.judge(UNIX, Candidate { key: Some(&key(number)), token: Some(&token) })
        };
        // Any number of first messages spend nothing.
        for number in 1..20 {
            assert_eq!(shown(&registry, number), Verdict::Invited(id));
        }
        let name = registry.invited(UNIX, &id, None, |_| false).unwrap();
        assert_eq!(name, "adas-laptop");
        assert!(registry.enrol(UNIX, &id, key(1), &name, None));
        // By two connections at once.
        assert!(registry.enrol(UNIX, &id, key(1), &name, None));
        assert_eq!(
            shown(&registry, 1),
            Verdict::Known(RegisteredClient {
                name: Some("Ada's laptop".into()),
                ..client("adas-laptop", 1)
            })
        );
        // The id is taken by now.
        assert!(!registry.enrol(UNIX, &id, key(2), &name, None));
        let name = registry.invited(UNIX, &id, None, |id| id == "adas-laptop-2").unwrap();
        assert_eq!(name, "adas-laptop-3");
        assert!(registry.enrol(UNIX, &id, key(2), &name, Some("phone")));
        assert_eq!(registry.get(&name).unwrap().name.as_deref(), Some("phone"));
        assert_eq!(registry.invited(UNIX, &id, None, |_| false), None);
        assert!(!registry.enrol(UNIX, &id, key(3), "x", None));
        assert_ne!(shown(&registry, 3), Verdict::Invited(id));
    }
}

#[test]
fn an_invite_needs_a_key_its_token_and_its_time() {
    let mut registry = registry(Auth::Registered, &[]);
    let (token, id) = invite(&mut registry, 1);
    let judge = |registry: &Registry, unix, key, token| registry.judge(unix, Candidate { key, token });
    let (first, other) = (key(1), Token::new("other".into()).unwrap());
    assert_eq!(judge(&registry, UNIX, None, Some(&token)), Verdict::Refused(Refusal::NoKey));
    assert_eq!(judge(&registry, UNIX, Some(&first), Some(&other)), Verdict::Refused(Refusal::Unknown));
    assert_eq!(judge(&registry, UNIX + 59, Some(&first), Some(&token)), Verdict::Invited(id));
    assert_eq!(judge(&registry, UNIX + 60, Some(&first), Some(&token)), Verdict::Refused(Refusal::Unknown));
    assert!(!registry.enrol(UNIX + 60, &id, first, "a", None));
}

#[test]
fn invites_are_bounded_and_their_tokens_are_not_kept() {
    let mut registry = registry(Auth::Registered, &[]);
    let mut rng = StdRng::seed_from_u64(2);
    let soon = Invite { name: None, expires_at: UNIX + 1, uses: 1 };
    for _ in 0..INVITES_MAX {
        registry.invite(UNIX, soon.clone(), &mut rng).unwrap();
    }
    assert_eq!(registry.invite(UNIX, soon.clone(), &mut rng).unwrap_err(), RegistryError::TooManyInvites);
    let late = Invite { expires_at: UNIX + 99, ..soon };
    let (token, _) = registry.invite(UNIX + 1, late, &mut rng).unwrap();
    assert_eq!(token.expose().len(), 22);
    let saved = serde_json::to_string(&registry.save(UNIX + 1)).unwrap();
    assert!(!saved.contains(token.expose()) && !format!("{registry:?}").contains(token.expose()));
}

/// What a restart with this configuration makes of `registry`.
fn restart(registry: &Registry, configured: &[RegisteredClient]) -> Registry {
    let saved = serde_json::to_vec(&registry.save(UNIX)).unwrap();
    Registry::restore(registry.auth(), configured, serde_json::from_slice(&saved).unwrap()).unwrap()
}

#[test]
fn what_was_changed_outlives_a_restart() {
    let configured = [client("a", 1), client("b", 2), client("c", 3)];
    let mut registry = registry(Auth::Registered, &configured);
    assert!(registry.save(UNIX).is_empty());
    registry.update(RegisteredClient { disabled: true, ..client("a", 1) }).unwrap();
    registry.remove("b").unwrap();
    registry
        .add(RegisteredClient { expires_at: Some(UNIX + 5), limit: Some((1000, 65_536)), ..client("d", 4) })
        .unwrap();
    let (token, id) = invite(&mut registry, 1);
    let again = restart(&registry, &configured);
    assert_eq!(again.clients(), registry.clients());
    assert_eq!(judge(&again, Some(&key(1))), Verdict::Refused(Refusal::Disabled));
    assert_eq!(judge(&again, Some(&key(2))), Verdict::Refused(Refusal::Unknown));
    assert_eq!(
        again.judge(UNIX, Candidate { key: Some(&key(9)), token: Some(&token) }),
        Verdict::Invited(id)
    );
    // And another.
    assert_eq!(restart(&again, &configured).clients(), registry.clients());
}

#[test]
fn the_later_word_counts() {
    let before = [client("a", 1), client("b", 2)];
    let mut registry = registry(Auth::Registered, &before);
    registry.update(RegisteredClient { disabled: true, ..client("a", 1) }).unwrap();
    registry.remove("b").unwrap();
    registry.add(client("c", 3)).unwrap();
    // The operator has edited both since, and has given c's key to another.
    let named = |id, number| RegisteredClient { name: Some("new".into()), ..client(id, number) };
    let after = [named("a", 1), named("b", 2), client("d", 3)];
    assert_eq!(restart(&registry, &after).clients(), after.iter().collect::<Vec<_>>());
    // What he has taken out of the configuration is gone, whatever was said of it.
    assert_eq!(restart(&registry, &[]).clients(), [&client("c", 3)]);
}

#[test]
fn clients_that_changed_places_are_back_in_them() {
    let configured = [client("a", 1), client("b", 2)];
    let mut registry = registry(Auth::Registered, &configured);
    registry.update(client("a", 3)).unwrap();
    registry.update(client("b", 1)).unwrap();
    registry.update(client("a", 2)).unwrap();
    assert_eq!(restart(&registry, &configured).clients(), [&client("a", 2), &client("b", 1)]);
}

#[test]
fn a_client_of_the_configuration_that_was_removed_and_is_back_changed_stays_so() {
    let configured = [client("a", 1)];
    let mut registry = registry(Auth::Registered, &configured);
    registry.remove("a").unwrap();
    registry.add(client("a", 2)).unwrap();
    assert_eq!(restart(&registry, &configured).clients(), [&client("a", 2)]);
}

#[derive(Clone, Debug)]
enum Step {
    Add(RegisteredClient),
    Update(RegisteredClient),
    Remove(String),
}

fn any_client() -> impl Strategy<Value = RegisteredClient> {
    let id = prop::sample::select(vec!["a", "b", "c", "a.2", "b.3"]);
    let addr = prop::option::of((2_u8..6).prop_map(|last| Ipv4Addr::from([10, 8, 0, last])));
    (id, 1_u8..6, addr, 1_u32..4, any::<bool>()).prop_map(
        |(id, number, assigned_ip, max_sessions, disabled)| RegisteredClient {
            assigned_ip,
            max_sessions,
            disabled,
            ..client(id, number)
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any_client().prop_map(Step::Add),
        any_client().prop_map(Step::Update),
        any_client().prop_map(|client| Step::Remove(client.id)),
    ]
}

proptest! {
    /// Whatever is done: nothing belongs to two clients, everybody is found by what is his, and a restart with the same
    /// configuration changes nothing.
    #[test]
    fn it_stays_consistent(
        configured in prop::collection::vec(any_client(), 0..4),
        steps in prop::collection::vec(any_step(), 0..24),
    ) {
        let mut fitting: Vec<RegisteredClient> = Vec::new();
        for client in configured {
            let candidate = [fitting.as_slice(), &[client]].concat();
            if Registry::new(Auth::Registered, &candidate).is_ok() {
                fitting = candidate;
            }
        }
        let mut registry = registry(Auth::Registered, &fitting);
        for step in steps {
            let _outcome = match step {
                Step::Add(client) => registry.add(client),
                Step::Update(client) => registry.update(client).map(drop),
                Step::Remove(id) => registry.remove(&id).map(drop),
            };
            let clients: Vec<_> = registry.clients().into_iter().cloned().collect();
            prop_assert!(Registry::new(Auth::Registered, &clients).is_ok());
            for client in &clients {
                prop_assert_eq!(registry.by_key(&client.public_key), Some(client));
                for session in client.session_ids() {
                    prop_assert_eq!(registry.owner(&session), Some(client));
                }
            }
            prop_assert_eq!(registry.by_key.len(), clients.len());
        }
        let again = restart(&registry, &fitting);
        prop_assert_eq!(again.clients(), registry.clients());
    }
}
