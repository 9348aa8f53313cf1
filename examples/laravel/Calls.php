<?php

namespace App\Services;

use Illuminate\Support\Facades\Redis;
use Illuminate\Support\Str;
use Predis\Connection\ConnectionException;
use RuntimeException;

/** app(Calls::class)->call('configs') — asks other services over Redis Pub/Sub. */
class Calls
{
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
        $deadline = microtime(true) + $timeout;
        $loop = Redis::connection('caller')->client()->pubSubLoop();
        try {
            $loop->subscribe($this->channel);
            foreach ($loop as $message) {
                if (microtime(true) > $deadline) {
                    break;
                }
                if ($message->kind === 'subscribe') { // not before: the answer would be lost
                    $this->publish($request);
                } elseif ($message->kind === 'message') {
                    $answer = json_decode($message->payload, true);
                    if (is_array($answer) && ($answer['requestId'] ?? null) === $id) {
                        return $this->result($answer);
                    }
                }
            }
        } catch (ConnectionException) { // its read_write_timeout is over
        } finally {
            $loop->stop(true);
        }
        throw new RuntimeException('Timeout exceeded');
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
