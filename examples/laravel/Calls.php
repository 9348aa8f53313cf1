<?php

namespace App\Services;

use Generator;
use Illuminate\Support\Facades\Redis;
use Illuminate\Support\Str;
use Predis\Connection\ConnectionException;
use RuntimeException;

/** app(Calls::class)->call('configs') — asks other services over Redis Pub/Sub. */
class Calls
{
    private const LISTENING = ''; // no service publishes that: every message is JSON

    public function __construct(private string $channel = 'general')
    {
    }

    /**
     * The answer of the first service that gives one, without its head.
     *
     * @throws RuntimeException Timeout exceeded, or what the other service says went wrong
     */
    public function call(string $action, mixed $data = null, float $timeout = 5.0): array
    {
        $id = (string) Str::uuid();
        $request = ['action' => $action, 'data' => $data, 'requestId' => $id, 'source' => 'laravel'];
        $client = Redis::connection('caller')->client();
        $heard = $client instanceof \Redis ? $this->phpredis($client) : $this->predis($client);
        $deadline = microtime(true) + $timeout;
        foreach ($heard as $payload) {
            if (microtime(true) > $deadline) {
                break;
            }
            if ($payload === self::LISTENING) { // not before: the answer would be lost
                $this->publish($request);
            } elseif ($payload !== null) {
                $answer = json_decode($payload, true);
                if (is_array($answer) && ($answer['requestId'] ?? null) === $id) {
                    return $this->result($answer);
                }
            }
        }
        throw new RuntimeException('Timeout exceeded');
    }

    /** LISTENING, then what comes on the channel; null now and then. */
    private function phpredis(\Redis $client): Generator
    {
        $channel = config('database.redis.options.prefix').$this->channel; // rawCommand adds none
        try {
            // `subscribe` does not tell when it listens. A PING is answered by what waits on the connection first.
            $client->rawCommand('SUBSCRIBE', $channel);
            yield self::LISTENING;
            while (is_array($reply = $client->rawCommand('PING'))) {
                $isMessage = $reply[0] === 'message';
                yield $isMessage ? $reply[2] : null;
                if (! $isMessage) {
                    usleep(5000);
                }
            }
        } finally {
            $client->close(); // it connects again by itself, and listens to nothing then
        }
    }

    /** The same. */
    private function predis(mixed $client): Generator
    {
        $loop = $client->pubSubLoop();
        try {
            $loop->subscribe($this->channel);
            foreach ($loop as $message) {
                yield $message->kind === 'subscribe' ? self::LISTENING : $message->payload;
            }
        } catch (ConnectionException) { // its read_write_timeout is over
        } finally {
            $loop->stop(true);
        }
    }

    /** Tells the other services something, and waits for nothing. */
    public function send(string $action, mixed $data = null): void
    {
        $this->publish(['action' => $action, 'data' => $data, 'source' => 'laravel']);
    }

    private function publish(array $request): void
    {
        Redis::connection()->publish($this->channel.'_sender', json_encode($request));
    }

    private function result(array $answer): array
    {
        if (is_string($answer['error']['message'] ?? null)) {
            throw new RuntimeException($answer['error']['message']);
        }

        return array_diff_key($answer, array_flip(['source', 'action', 'requestId']));
    }
}
