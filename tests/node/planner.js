// A planner in Node.js that knows the protos alone: proto-loader makes its client of them at run time.
//
//     node planner.js ADDRESS PROTOS GOOGLE_PROTOS < question.json
//
// The question has model, times (seconds), load, scenario_count, seed and plans (label to values). One JSON
// object comes out: what each call answered, and a failure with its google.rpc details decoded.
'use strict';

const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, protos, googleProtos] = process.argv.slice(2);
const question = JSON.parse(fs.readFileSync(0, 'utf8'));
const definition = loader.loadSync(
  [
    'hedgecast/rpc/v1/decision_service.proto',
    'hedgecast/rpc/v1/model_service.proto',
    'google/rpc/status.proto',
    'google/rpc/error_details.proto',
  ],
  { includeDirs: [protos, googleProtos], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true },
);
const { DecisionService, ModelService } = grpc.loadPackageDefinition(definition).hedgecast.rpc.v1;
const credentials = grpc.credentials.createInsecure();
const decisions = new DecisionService(address, credentials);
const models = new ModelService(address, credentials);

function tensor(values) {
  return { shape: [values.length], data_type: 'FLOAT64', data: Buffer.from(new Float64Array(values).buffer) };
}

function numbers(message) {
  const { data } = message;
  return Array.from({ length: data.length / 8 }, (_, index) => data.readDoubleLE(8 * index));
}

function request(changes = {}) {
  return {
    model: question.model,
    history: {
      row_times: question.times.map((seconds) => ({ seconds, nanos: 0 })),
      columns: [{ name: 'load', values: question.load }],
    },
    scenario_count: question.scenario_count,
    seed: question.seed,
    gap_replication_count: 0,
    ...changes,
  };
}

function deadline() {
  return { deadline: Date.now() + 60000 };
}

function unary(client, method, message) {
  return new Promise((resolve, reject) => {
    client[method](message, deadline(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

function all(call) {
  return new Promise((resolve, reject) => {
    const messages = [];
    call.on('data', (message) => messages.push(message));
    call.on('error', reject);
    call.on('end', () => resolve(messages));
  });
}

function decision(answer) {
  return {
    values: Object.fromEntries(answer.decision.map((variable) => [variable.name, numbers(variable.values)])),
    units: answer.decision.map((variable) => variable.unit),
    first_step: answer.decision[0].step_times[0].seconds,
    expected_cost: answer.expected_cost,
    expected_regret: answer.expected_regret,
    fingerprint: answer.scenario_fingerprint,
    model: `${answer.model.name}@${answer.model.version}`,
    state: answer.verdict.state,
  };
}

// What google.rpc.Status in the trailer says, each detail by the name of its message.
function details(error) {
  const [packed] = error.metadata.get('grpc-status-details-bin');
  const status = definition['google.rpc.Status'].deserialize(packed);
  const found = {};
  for (const { type_url: url, value } of status.details) {
    const name = url.split('/').pop();
    found[name] = definition[name].deserialize(value);
  }
  return { code: grpc.status[error.code], same_code: status.code === error.code, message: error.details, found };
}

async function failure(message) {
  try {
    await unary(decisions, 'Decide', message);
  } catch (error) {
    return details(error);
  }
  throw new Error('a wrong request was answered');
}

async function stream() {
  const call = decisions.DecideStream(deadline());
  const messages = all(call);
  for (let index = 0; index < 4; index += 1) {
    const changes = index === 2 ? { scenario_count: -1 } : { seed: index };
    call.write({ correlation_id: `day-${index}`, request: request(changes) });
  }
  call.end();
  return (await messages).map(({ correlation_id: id, outcome, response, error }) => ({
    id,
    outcome,
    fingerprint: response ? response.scenario_fingerprint : '',
    code: error ? grpc.status[error.code] : '',
  }));
}

async function main() {
  const listed = await unary(models, 'ListModels', {});
  const evaluated = await unary(decisions, 'EvaluateDecisions', {
    ...request(),
    gap_replication_count: undefined,
    candidates: Object.entries(question.plans).map(([label, plan]) => ({ label, values: { schedule: tensor(plan) } })),
  });
  const certified = await all(
    decisions.DecideUntilCertified(
      {
        request: request({ gap_replication_count: undefined, scenario_count: 0 }),
        target_relative_gap: question.target_relative_gap,
      },
      deadline(),
    ),
  );
  return {
    models: listed.models.map((model) => ({ name: model.name, step: model.step_duration.seconds })),
    decided: decision(await unary(decisions, 'Decide', request())),
    evaluated: evaluated.evaluations,
    certified: certified.map((message) => ({
      bound: message.model_gap_upper_bound,
      stop: message.stop_reason,
      stages: message.stage_count,
      objective: message.best.objective,
    })),
    streamed: await stream(),
    unknown_model: await failure(request({ model: 'nobody' })),
    wrong_count: await failure(request({ scenario_count: -1 })),
  };
}

main()
  .then((result) => process.stdout.write(`${JSON.stringify(result)}\n`))
  .catch((error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
  })
  .finally(() => {
    decisions.close();
    models.close();
  });
