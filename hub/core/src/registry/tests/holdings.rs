//! What an authority is told to hold, and who may ask about those of others.

use super::{credentials::pat, *};
use crate::oauth::ErrorCode;

impl World {
    fn client(&mut self, device: &str) -> AuthenticatedClient {
        let assertion = self.assertion(device, &key(device)).sign(&key(device));
        let authentication = ClientAuthentication::Assertion { client_id: None, assertion: &assertion };
        self.registry.authenticate_client(&authentication, &audiences(), &self.pepper, self.now).expect("the key is proved")
    }
}

#[test]
fn a_token_is_told_to_hold_what_its_user_may_now() {
    let mut world = World::with_devices(&["lamp"]);
    let ann = world.user_token("ann", Role::Member);
    let limited = NewPersonalAccessToken { devices: Some(vec![name("lamp")]), ..pat(None, 30) };
    let (id, narrow) = world.create_pat(&ann, limited).expect("legal");
    let authority = world.present(&narrow).expect("known");
    let holding = world.registry.holding(&authority, world.now).expect("good");
    assert_eq!((holding.role, holding.devices), (Some(Role::Member), Some(vec![name("lamp")])));
    assert!(holding.scope.contains("commands:send"));
    assert_eq!(holding.credential.map(|record| record.id), Some(id));
    world.set_role("ann", Role::Viewer);
    let holding = world.registry.holding(&authority, world.now).expect("good");
    assert!(holding.scope.contains("devices:read") && !holding.scope.contains("commands:send"));
    world.wait(31 * 86_400);
    assert!(world.registry.holding(&authority, world.now).is_err());
}

#[test]
fn an_access_token_is_told_to_hold_its_scope_until_it_ends() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("the key is proved");
    let holding = world.registry.holding(&token.authority(), world.now).expect("good");
    assert_eq!((holding.scope, holding.expires_at), (token.claims.scope.clone(), Some(token.claims.exp)));
    assert!(holding.credential.is_none() && holding.role.is_none());
    world.disable("lamp");
    assert!(world.registry.holding(&token.authority(), world.now).is_err());
}

#[test]
fn a_service_may_introspect_a_thermostat_may_not_and_a_proof_counts_once() {
    let mut world = World::with_devices(&["lamp"]);
    world.enrol("dashboard", "service");
    let service = world.client("dashboard");
    let context = world.context();
    let permit = world.registry.permit_introspection(&service).expect("its profile grants it");
    assert_eq!(permit.actor(), &Principal::Device(name("dashboard")));
    let change = world.registry.use_proof(&service, &context).expect("good");
    world.commit(change);
    let replayed = world.registry.use_proof(&service, &context).map(drop);
    assert_eq!(replayed.expect_err("used up").code, ErrorCode::InvalidClient);
    world.disable("dashboard");
    let refused = world.registry.permit_introspection(&service).map(drop);
    assert_eq!(refused.expect_err("paused").code, ErrorCode::InvalidClient);

    let thermostat = world.client("lamp");
    let refused = world.registry.permit_introspection(&thermostat).map(drop);
    assert_eq!(refused.expect_err("not granted").code, ErrorCode::UnauthorizedClient);
    let change = world.registry.use_proof(&thermostat, &context).expect("good");
    world.commit(change);
    assert!(world.registry.use_proof(&thermostat, &context).is_err(), "an assertion counts once");
}

#[test]
fn a_credential_ends_itself_and_nothing_else() {
    let mut world = World::with_devices(&["lamp"]);
    let ann = world.user_token("ann", Role::Viewer);
    let (_, other) = world.create_pat(&ann, pat(Some("devices:read"), 30)).expect("legal");
    let authority = world.present(&other).expect("known");
    let change = world.registry.revoke_itself(&authority, &world.context());
    world.commit(change);
    assert!(world.present(&other).is_none() && world.present(&ann).is_some());
    assert_eq!(world.audit().last().map(|entry| entry.action.clone()), Some("credential.revoke".to_owned()));
    let again = world.registry.revoke_itself(&authority, &world.context());
    assert!(again.writes.is_empty());
    let token = world.token("lamp").expect("the key is proved").authority();
    assert!(world.registry.revoke_itself(&token, &world.context()).writes.is_empty());
}
