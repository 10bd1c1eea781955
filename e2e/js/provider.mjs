// The OpenID Connect provider that stands in for Google: oidc-provider with fixed accounts and a plain login form.
//
//   node provider.mjs ISSUER ADDRESS PORT FOLDER
//
// FOLDER/registry.json holds the clients and accounts. It is read at every use, so that both can change at run time.
// FOLDER/jwks.json keeps the signing key across restarts.
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import Provider, { interactionPolicy } from 'oidc-provider';
import MemoryAdapter from 'oidc-provider/lib/adapters/memory_adapter.js';

const [issuer, address, port, folder] = process.argv.slice(2);
const registry = () => JSON.parse(readFileSync(`${folder}/registry.json`, 'utf8'));

class Adapter extends MemoryAdapter {
  constructor(model) {
    super(model);
    this.clients = model === 'Client';
  }

  async find(id) {
    return this.clients ? registry().clients.find((client) => client.client_id === id) : super.find(id);
  }
}

// Accounts missing from the registry can neither log in nor refresh.
function findAccount(_ctx, id) {
  const account = registry().accounts.find((one) => one.sub === id);
  return account && { accountId: id, claims: () => account };
}

function signingKeys() {
  const file = `${folder}/jwks.json`;
  if (!existsSync(file)) {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const key = { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'RS256' };
    writeFileSync(file, JSON.stringify({ keys: [key] }), { mode: 0o600 });
  }
  return JSON.parse(readFileSync(file, 'utf8'));
}

// Like Google, accept `prompt=select_account` and show the form again.
const policy = interactionPolicy.base();
policy.add(new interactionPolicy.Prompt({ name: 'select_account', requestable: true }), 0);

const provider = new Provider(issuer, {
  adapter: Adapter,
  findAccount,
  jwks: signingKeys(),
  cookies: { keys: [randomUUID()] },
  claims: { openid: ['sub', 'hd', 'groups'], email: ['email', 'email_verified'], profile: ['name', 'picture'] },
  // Like Google, put the claims of the scopes into the ID token.
  conformIdTokenClaims: false,
  extraParams: ['access_type', 'hd', 'include_granted_scopes'],
  features: { devInteractions: { enabled: false }, revocation: { enabled: true } },
  interactions: { policy, url: (_ctx, interaction) => `/login/${interaction.uid}` },
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  loadExistingGrant: async (ctx) => granted(ctx.oidc.client.clientId, ctx.oidc.session.accountId),
  pkce: { required: () => false },
  rotateRefreshToken: true,
  scopes: ['openid', 'email', 'profile', 'offline_access'],
  ttl: { AccessToken: 3600, AuthorizationCode: 60, Grant: 1209600, IdToken: 3600, Interaction: 600, RefreshToken: 1209600, Session: 1209600 },
});

// A TLS-terminating proxy sends X-Forwarded-Proto.
provider.proxy = issuer.startsWith('https:');

// Grants every client all scopes, without a consent page.
async function granted(clientId, accountId) {
  const grant = new provider.Grant({ clientId, accountId });
  grant.addOIDCScope('openid email profile offline_access');
  await grant.save();
  return grant;
}

const escape = (text) => String(text ?? '').replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

const form = (uid, hint, problem) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Sign in</title>
<style>body{font:16px sans-serif;max-width:22em;margin:4em auto}label,input,button{display:block;width:100%;margin:.4em 0}</style>
<h1>Sign in</h1>
<p>The test bed's identity provider. Any password will do.</p>
${problem ? `<p id="problem" role="alert">${escape(problem)}</p>` : ''}
<form id="login" method="post" action="/login/${escape(uid)}">
<label for="email">E-mail</label><input id="email" name="email" type="email" value="${escape(hint)}" required autofocus>
<label for="password">Password</label><input id="password" name="password" type="password" required>
<button id="submit" type="submit">Sign in</button>
</form></html>`;

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return new URLSearchParams(Buffer.concat(chunks).toString());
}

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/login/')) return next();
  const { uid, params, prompt, session } = await provider.interactionDetails(ctx.req, ctx.res);
  if (prompt.name === 'consent') {
    const grant = await granted(params.client_id, session.accountId);
    await provider.interactionFinished(ctx.req, ctx.res, { consent: { grantId: grant.jti } }, { mergeWithLastSubmission: true });
    ctx.respond = false;
  } else if (ctx.method === 'POST') {
    const email = (await body(ctx.req)).get('email') ?? '';
    const account = registry().accounts.find((one) => one.email === email);
    if (account) {
      const result = { [prompt.name]: {}, login: { accountId: account.sub } };
      await provider.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: true });
      ctx.respond = false;
    } else {
      ctx.status = 401;
      ctx.body = form(uid, email, `There is no account ${email}.`);
    }
  } else {
    ctx.body = form(uid, params.login_hint, '');
  }
});

for (const event of ['authorization.error', 'grant.error', 'server_error', 'interaction.started', 'authorization.success', 'grant.success']) {
  provider.on(event, (ctx, error) => {
    const who = ctx?.oidc?.params?.client_id ?? '';
    console.log(`${new Date().toISOString()} ${event} ${who} ${error?.error_description ?? error?.message ?? ''}`);
  });
}

// Tests check that these tokens appear in no log.
provider.on('grant.success', (ctx) => appendFileSync(`${folder}/token-responses.jsonl`, `${JSON.stringify(ctx.body)}\n`, { mode: 0o600 }));

provider.listen(Number(port), address, () => console.log(`${issuer} is served on ${address}:${port}`));
