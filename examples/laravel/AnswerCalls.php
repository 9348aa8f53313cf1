<?php

namespace App\Console\Commands;

use Illuminate\Console\Command;
use Illuminate\Support\Facades\Redis;
use Throwable;

/** php artisan calls:answer — answers other services over Redis Pub/Sub. */
class AnswerCalls extends Command
{
    protected $signature = 'calls:answer';

    protected $description = 'Answer the calls of other services over Redis Pub/Sub';

    private const SENDER = '_sender';

    private const CLAIM_TTL = 60000; // ms: longer than a request and what it asks for take

    public function handle(): void
    {
        $this->info('answering '.implode(', ', array_keys($this->actions())));
        // The pattern gets Laravel's prefix: laravel_database_*_sender.
        Redis::connection('subscriber')->psubscribe(['*'.self::SENDER], function (string $payload, string $channel): void {
            $request = json_decode($payload, true);
            if (is_array($request)) {
                $this->answer($request, $this->withoutPrefix(substr($channel, 0, -strlen(self::SENDER))));
            }
        });
    }

    /** What this service knows: an action's name to a function of the request's data that returns an array. */
    private function actions(): array
    {
        return [
            'configs' => fn (mixed $data): array => ['app' => config('app.name'), 'locale' => config('app.locale')],
            'sum' => fn (array $data): array => ['total' => array_sum($data)],
        ];
    }

    private function answer(array $request, string $channel): void
    {
        $name = $request['action'] ?? 'subscribed';
        $id = $request['requestId'] ?? null;
        $action = is_string($name) ? ($this->actions()[$name] ?? null) : null;
        if ($action === null || ($id !== null && ! $this->claims($id))) {
            return; // another service knows it, or another worker has it
        }
        try {
            $result = $action($request['data'] ?? null);
        } catch (Throwable $error) {
            report($error);
            $result = ['error' => ['code' => 100, 'message' => "$name failed; the log of its service says more"]];
        }
        if ($id !== null) {
            $head = ['source' => 'laravel', 'action' => $name, 'requestId' => $id];
            Redis::connection()->publish($channel, json_encode($head + $result));
        }
    }

    private function claims(mixed $id): bool
    {
        return is_string($id) && (bool) Redis::connection()->set("rpc:$id", 'laravel', 'PX', self::CLAIM_TTL, 'NX');
    }

    /** Names come with the prefix that `publish` would add once more. */
    private function withoutPrefix(string $channel): string
    {
        $prefix = (string) config('database.redis.options.prefix');

        return $prefix !== '' && str_starts_with($channel, $prefix) ? substr($channel, strlen($prefix)) : $channel;
    }
}
