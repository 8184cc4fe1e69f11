// A charge point on ocpp-rpc, in strict mode: it refuses every message of ours that breaks its schema.
//
//   node station.js '{"endpoint": "ws://127.0.0.1:9000/garage", "identity": "CP_1", "protocol": "ocpp1.6", ...}'
//
// Further members: passwordHex (basic, as bytes), headers, ca, cert, key (files). It plays one life: boot, status,
// authorise, a transaction with meter values; then it says READY, and does what it is told by RPC. Each thing that it
// did is one line on standard output; a message that it refuses ends it with status 1.
'use strict';
const fs = require('fs');
const { RPCClient, createRPCError } = require('ocpp-rpc');

const options = JSON.parse(process.argv[2]);
const is16 = options.protocol === 'ocpp1.6';
const say = (...words) => process.stdout.write(words.join(' ') + '\n');
const now = () => new Date().toISOString();
const file = (name) => (options[name] ? fs.readFileSync(options[name]) : undefined);

const client = new RPCClient({
  endpoint: options.endpoint,
  identity: options.identity,
  protocols: [options.protocol],
  strictMode: options.protocol !== 'ocpp2.1', // whose table of 2.1 ocpp-rpc 2.2.1 looks up wrongly
  password: options.passwordHex ? Buffer.from(options.passwordHex, 'hex') : null,
  headers: options.headers || {},
  wsOpts: { ca: file('ca'), cert: file('cert'), key: file('key') },
  reconnect: false,
});
client.on('strictValidationFailure', ({ error }) => {
  say('INVALID', error && error.message, JSON.stringify(error && error.details));
  process.exit(1);
});

const settings = { HeartbeatInterval: '300', MeterValueSampleInterval: '60' };
let boots = 0;
let transaction = null;
let counter = 0;

async function boot() {
  const payload = is16
    ? { chargePointVendor: 'ACME', chargePointModel: 'One', chargePointSerialNumber: options.serial || 'SN-1' }
    : { reason: 'PowerUp', chargingStation: { vendorName: 'ACME', model: 'Two', serialNumber: options.serial || 'SN-1' } };
  const result = await client.call('BootNotification', payload);
  boots += 1;
  say('BOOTED', boots, result.status);
}

async function status(word) {
  await client.call('StatusNotification', is16
    ? { connectorId: 1, errorCode: 'NoError', status: word }
    : { timestamp: now(), connectorStatus: word === 'Available' ? 'Available' : 'Occupied', evseId: 1, connectorId: 1 });
}

async function start(tag, remoteStartId) {
  if (is16) {
    const result = await client.call('StartTransaction', { connectorId: 1, idTag: tag, meterStart: 1000, timestamp: now() });
    transaction = result.transactionId;
    say('STARTED', transaction, result.idTagInfo.status);
  } else {
    counter += 1;
    transaction = `tx-${process.pid}-${counter}`;
    const info = { transactionId: transaction, chargingState: 'Charging' };
    if (remoteStartId !== undefined) info.remoteStartId = remoteStartId;
    const result = await client.call('TransactionEvent', {
      eventType: 'Started', timestamp: now(), triggerReason: remoteStartId === undefined ? 'Authorized' : 'RemoteStart',
      seqNo: 0, transactionInfo: info, evse: { id: 1, connectorId: 1 }, idToken: { idToken: tag, type: 'ISO14443' },
      meterValue: [{ timestamp: now(), sampledValue: [
        { value: 1, context: 'Transaction.Begin', measurand: 'Energy.Active.Import.Register', unitOfMeasure: { unit: 'kWh' } }] }],
    });
    say('STARTED', transaction, result.idTokenInfo.status);
  }
  await status('Charging');
}

async function meter(energy) {
  const sampled = { value: energy, measurand: 'Energy.Active.Import.Register' };
  const power = { value: 7400.5, measurand: 'Power.Active.Import' };
  if (is16) {
    const values = [{ ...sampled, value: String(energy), unit: 'Wh' }, { ...power, value: '7400.5', unit: 'W' }];
    await client.call('MeterValues', {
      connectorId: 1, transactionId: transaction, meterValue: [{ timestamp: now(), sampledValue: values }],
    });
  } else {
    await client.call('TransactionEvent', {
      eventType: 'Updated', timestamp: now(), triggerReason: 'MeterValuePeriodic', seqNo: 1,
      transactionInfo: { transactionId: transaction }, evse: { id: 1, connectorId: 1 },
      meterValue: [{ timestamp: now(), sampledValue: [
        { ...sampled, unitOfMeasure: { unit: 'Wh' } }, { ...power, unitOfMeasure: { unit: 'W' } }] }],
    });
  }
  say('METERED', energy);
}

async function stop(reason) {
  if (is16) {
    await client.call('StopTransaction', { transactionId: transaction, meterStop: 3500, timestamp: now(), reason });
  } else {
    await client.call('TransactionEvent', {
      eventType: 'Ended', timestamp: now(), triggerReason: reason === 'Remote' ? 'RemoteStop' : 'StopAuthorized', seqNo: 2,
      transactionInfo: { transactionId: transaction, stoppedReason: reason }, evse: { id: 1, connectorId: 1 },
      meterValue: [{ timestamp: now(), sampledValue: [
        { value: 3500, context: 'Transaction.End', measurand: 'Energy.Active.Import.Register', unitOfMeasure: { unit: 'Wh' } }] }],
    });
  }
  say('STOPPED', transaction);
  transaction = null;
  await status('Available');
}

async function firmware(requestId) {
  for (const word of ['Downloading', 'Downloaded', 'Installing', 'Installed']) {
    await client.call('FirmwareStatusNotification', is16 ? { status: word } : { status: word, requestId });
  }
  say('FIRMWARE Installed');
}

// The reply goes first, what follows from it after.
const later = (work) => setTimeout(() => work().catch((error) => say('FAILED', error.stack)), 10);

function answer(action, reply) {
  client.handle(action, ({ params }) => {
    say('TOLD', action, JSON.stringify(params));
    return reply(params);
  });
}

answer(is16 ? 'RemoteStartTransaction' : 'RequestStartTransaction', (params) => {
  later(async () => {
    await start(is16 ? params.idTag : params.idToken.idToken, params.remoteStartId);
    await meter(2500);
  });
  return { status: 'Accepted' };
});
answer(is16 ? 'RemoteStopTransaction' : 'RequestStopTransaction', (params) => {
  if (params.transactionId !== transaction) return { status: 'Rejected' };
  later(() => stop('Remote'));
  return { status: 'Accepted' };
});
answer('Reset', () => {
  later(async () => {
    await client.close({ code: 1000, reason: 'reset' });
    await client.connect();
    await boot();
  });
  return { status: 'Accepted' };
});
answer('UpdateFirmware', (params) => {
  later(() => firmware(params.requestId));
  return is16 ? {} : { status: 'Accepted' };
});
answer('UnlockConnector', () => ({ status: 'Unlocked' }));
answer('TriggerMessage', (params) => {
  later(() => (params.requestedMessage === 'Heartbeat' ? client.call('Heartbeat', {}) : status('Available')));
  return { status: 'Accepted' };
});
answer('SetChargingProfile', () => ({ status: 'Accepted' }));
answer('ClearChargingProfile', () => ({ status: 'Accepted' }));
answer('ChangeAvailability', () => ({ status: 'Accepted' }));
answer('DataTransfer', ({ data }) => (data === undefined ? { status: 'Accepted' } : { status: 'Accepted', data }));
if (is16) {
  answer('GetConfiguration', ({ key }) => ({
    configurationKey: Object.entries(settings)
      .filter(([name]) => !key || key.includes(name))
      .map(([name, value]) => ({ key: name, readonly: false, value })),
    unknownKey: (key || []).filter((name) => !(name in settings)),
  }));
  answer('ChangeConfiguration', ({ key, value }) => {
    if (!(key in settings) && key !== 'AuthorizationKey') return { status: 'NotSupported' };
    settings[key] = value;
    return { status: 'Accepted' };
  });
} else {
  answer('GetVariables', ({ getVariableData }) => ({
    getVariableResult: getVariableData.map((one) => (one.variable.name in settings
      ? { ...one, attributeStatus: 'Accepted', attributeValue: settings[one.variable.name] }
      : { ...one, attributeStatus: 'UnknownVariable' })),
  }));
  answer('SetVariables', ({ setVariableData }) => ({
    setVariableResult: setVariableData.map(({ component, variable, attributeValue }) => {
      settings[variable.name] = attributeValue;
      return { component, variable, attributeStatus: 'Accepted' };
    }),
  }));
}
client.handle(({ method }) => {
  say('TOLD', method, 'which is not implemented');
  throw createRPCError('NotImplemented');
});

async function main() {
  await client.connect();
  say('CONNECTED', client.protocol);
  await boot();
  await client.call('Heartbeat', {});
  await status('Available');
  const tag = '04AABB';
  const authorized = await client.call('Authorize', is16 ? { idTag: tag } : { idToken: { idToken: tag, type: 'ISO14443' } });
  say('AUTHORIZED', (authorized.idTagInfo || authorized.idTokenInfo).status);
  await start(tag);
  await meter(1500);
  await stop('Local');
  say('READY');
}

main().catch((error) => {
  say('FAILED', error.code || '', error.message);
  process.exit(1);
});
