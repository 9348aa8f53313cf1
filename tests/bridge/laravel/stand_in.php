<?php

// What the Laravel example uses of Laravel, over phpredis as Laravel's PhpRedisConnection uses it.
// php stand_in.php answer | php stand_in.php call ACTION JSON | php stand_in.php send ACTION JSON

namespace Illuminate\Console {
    class Command
    {
        protected function info(string $text): void
        {
            echo "$text\n";
        }
    }
}

namespace Illuminate\Support {
    class Str
    {
        public static function uuid(): string
        {
            return bin2hex(random_bytes(16));
        }
    }
}

namespace Illuminate\Support\Facades {
    class Redis
    {
        private static array $connections = [];

        public static function connection(string $name = 'default'): Connection
        {
            return self::$connections[$name] ??= new Connection($name);
        }
    }

    class Connection
    {
        private \Redis $client;

        public function __construct(string $name)
        {
            $this->client = new \Redis();
            $this->client->connect('127.0.0.1', (int) getenv('REDIS_PORT'), 5.0);
            $this->client->setOption(\Redis::OPT_PREFIX, config('database.redis.options.prefix'));
            $this->client->setOption(\Redis::OPT_READ_TIMEOUT, $name === 'subscriber' ? -1 : 30);
        }

        public function client(): \Redis
        {
            return $this->client;
        }

        public function psubscribe(array $patterns, callable $then): void
        {
            $this->client->psubscribe($patterns, fn ($redis, $pattern, $channel, $payload) => $then($payload, $channel));
        }

        public function publish(string $channel, string $payload): void
        {
            $this->client->publish($channel, $payload);
        }

        public function set(string $key, string $value, string $resolution, int $ttl, string $flag): mixed
        {
            return $this->client->set($key, $value, [$flag, $resolution => $ttl]);
        }
    }
}

namespace {
    function config(string $name): string
    {
        $known = ['app.name' => 'پیک', 'app.locale' => 'fa', 'database.redis.options.prefix' => 'laravel_database_'];

        return $known[$name];
    }

    function report(Throwable $error): void
    {
        fwrite(STDERR, $error->getMessage()."\n");
    }

    $example = dirname(__DIR__, 3).'/examples/laravel';
    require "$example/AnswerCalls.php";
    require "$example/Calls.php";
    [, $what, $action, $data] = $argv + [1 => '', 2 => '', 3 => 'null'];
    if ($what === 'answer') {
        (new App\Console\Commands\AnswerCalls())->handle();
    }
    $calls = new App\Services\Calls();
    try {
        foreach (explode(',', $action) as $one) { // one after another over the same connections
            if ($what === 'send') {
                $calls->send($one, json_decode($data, true));
            } else {
                echo json_encode($calls->call($one, json_decode($data, true), (float) ($argv[4] ?? 20)), JSON_UNESCAPED_UNICODE)."\n";
            }
        }
    } catch (RuntimeException $error) {
        fwrite(STDERR, $error->getMessage()."\n");
        exit(1);
    }
}
