// Answers questions about syntax as the reference packages do: a JSON array of [kind, input] on
// stdin, a JSON array of answers on stdout.

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

import * as did from '@atproto/did'
import * as jwk from '@atproto/jwk'
import * as scopes from '@atproto/oauth-scopes'
import * as types from '@atproto/oauth-types'
import * as syntax from '@atproto/syntax'

// Not among what the provider exports.
const { compareRedirectUri } = await import(
  new URL('../node_modules/@atproto/oauth-provider/dist/lib/util/redirect-uri.js', import.meta.url)
    .href
)

const ok = (schema) => (input) => attempt(() => schema.safeParse(input).success) ?? false
const attempt = (work) => {
  try {
    return work() ?? null
  } catch {
    return null
  }
}

const kinds = {
  handle: syntax.isValidHandle,
  nsid: syntax.isValidNsid,
  did: syntax.isValidDid,
  atproto_did: did.isAtprotoDid,
  did_service_ref: did.isAtprotoDidRefAbsolute,
  did_document: (document) => {
    const { aka, pds } = did.extractAtprotoData(document)
    // Handles are compared in lower case; without a PDS nobody asks for one.
    return pds ? { handle: aka?.toLowerCase() ?? null, pds: pds.serviceEndpoint } : null
  },
  scope: (value) => attempt(() => scopes.normalizeAtprotoOauthScopeValue(value)),
  scope_string: (value) => ({
    oauth_syntax: types.isOAuthScope(value),
    atproto: types.isAtprotoOAuthScope(value),
  }),
  include_expansion: ({ nsid, aud, perms }) =>
    attempt(() => new scopes.IncludeScope(nsid, aud).toScopes({ permissions: perms })),
  allows: ({ granted, resource, options }) => {
    const permissions = new scopes.ScopePermissionsTransition(granted)
    return attempt(() => permissions[`allows${resource}`](options)) ?? false
  },
  client_id_discoverable: (value) => attempt(() => types.isOAuthClientIdDiscoverable(value)) ?? false,
  client_id_loopback: (value) => attempt(() => types.parseAtprotoLoopbackClientId(value)),
  loopback_build: (config) => attempt(() => types.buildAtprotoLoopbackClientId(config)),
  loopback_metadata: (value) => attempt(() => types.atprotoLoopbackClientMetadata(value)),
  redirect_uri: ok(types.oauthRedirectUriSchema),
  redirect_uri_match: ({ registered, requested }) =>
    attempt(() => compareRedirectUri(registered, requested)) ?? false,
  issuer: ok(types.oauthIssuerIdentifierSchema),
  token_response: ok(types.atprotoOAuthTokenResponseSchema),
  // The members of a key beside its numbers, which are ours to choose.
  jwk_public: (members) => ok(jwk.jwkPubSchema)({ kty: 'EC', crv: 'P-256', x: 'x', y: 'y', ...members }),
  client_metadata: ok(types.oauthClientMetadataSchema),
  htu: (value) => attempt(() => new URL(value).origin + new URL(value).pathname),
  pkce: (verifier) => createHash('sha256').update(verifier).digest('base64url'),
  thumbprint: ({ crv, kty, x, y }) =>
    createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('base64url'),
}

const questions = JSON.parse(readFileSync(0, 'utf8'))
process.stdout.write(JSON.stringify(questions.map(([kind, input]) => kinds[kind](input) ?? null)))
