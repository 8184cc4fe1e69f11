// A charge point on em-ocpp-chargepoint-simulator, in its batch mode; STATION_URL says where to. The same life as in
// station.js. Its README's own numeric meter value is used on purpose: it breaks the schema, and has to be taken.
'use strict';
module.exports = async function (connect) {
  const say = (...words) => process.stdout.write('@' + words.join(' ') + '\n');
  const now = () => new Date().toISOString();
  const settings = { HeartbeatInterval: '300' };
  let boots = 0;
  let transaction = null;
  let cp;
  const later = (work) => setTimeout(() => work().catch((error) => say('FAILED', error && (error.stack || error))), 10);

  async function boot() {
    const result = await cp.sendBootnotification({ chargePointVendor: 'ACME', chargePointModel: 'Sim' });
    boots += 1;
    say('BOOTED', boots, result.status);
  }
  async function start(tag) {
    const result = await cp.startTransaction({ connectorId: 1, idTag: tag, meterStart: 1000, timestamp: now() });
    transaction = result.transactionId;
    say('STARTED', transaction, result.idTagInfo.status);
    await cp.sendStatusNotification({ connectorId: 1, errorCode: 'NoError', status: 'Charging' });
  }
  async function meter(energy) {
    await cp.meterValues({
      connectorId: 1, transactionId: transaction, meterValue: [{ timestamp: now(), sampledValue: [{ value: energy }] }],
    });
    say('METERED', energy);
  }
  async function stop(reason) {
    await cp.stopTransaction({ transactionId: transaction, meterStop: 3500, timestamp: now(), reason });
    say('STOPPED', transaction);
    transaction = null;
    await cp.sendStatusNotification({ connectorId: 1, errorCode: 'NoError', status: 'Available' });
  }

  try {
    cp = await connect(process.env.STATION_URL);
    say('CONNECTED', 'ocpp1.6');
    const reply = (name, make) => cp['answer' + name](async (request) => {
      say('TOLD', name, JSON.stringify(request.payload));
      cp.sendResponse(request.uniqueId, make(request.payload));
    });
    reply('RemoteStartTransaction', ({ idTag }) => {
      later(async () => { await start(idTag); await meter(2500); });
      return { status: 'Accepted' };
    });
    reply('RemoteStopTransaction', () => { later(() => stop('Remote')); return { status: 'Accepted' }; });
    reply('Reset', () => {
      later(async () => { await cp.reConnect(); await boot(); });
      return { status: 'Accepted' };
    });
    reply('UpdateFirmware', () => {
      later(async () => {
        for (const status of ['Downloading', 'Downloaded', 'Installing', 'Installed']) {
          await cp.sendFirmwareStatusNotification({ status });
        }
        say('FIRMWARE Installed');
      });
      return {};
    });
    reply('GetConfiguration', ({ key }) => ({
      configurationKey: Object.entries(settings)
        .filter(([name]) => !key || key.includes(name))
        .map(([name, value]) => ({ key: name, readonly: false, value })),
    }));
    reply('ChangeConfiguration', ({ key, value }) => { settings[key] = value; return { status: 'Accepted' }; });
    reply('ChangeAvailability', () => ({ status: 'Accepted' }));
    reply('ClearChargingProfile', () => ({ status: 'Accepted' }));
    reply('DataTransfer', () => ({ status: 'Accepted' }));
    await boot();
    await cp.sendHeartbeat();
    await cp.sendStatusNotification({ connectorId: 1, errorCode: 'NoError', status: 'Available' });
    const authorized = await cp.sendAuthorize({ idTag: '04AABB' });
    say('AUTHORIZED', authorized.idTagInfo.status);
    await start('04AABB');
    await meter(1500);
    await stop('Local');
    say('READY');
  } catch (error) {
    say('FAILED', error && (error.message || error));
    process.exit(1);
  }
};
